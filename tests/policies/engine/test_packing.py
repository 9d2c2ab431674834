from __future__ import annotations

import numpy as np
import pytest

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.engine.packing import pack


def group(prompt, *completions, counted=None, id="rows.jsonl:1"):
    made = tuple(
        Completion(np.array(ids, np.int32), np.array(counted[place] if counted else [True] * len(ids), dtype=bool))
        for place, ids in enumerate(completions)
    )
    return Group(id=id, prompt=np.array(prompt, np.int32), completions=made)


def test_row_of_two_groups_by_hand() -> None:
    packed = pack([group([5, 6], [7, 8, 2], [9, 2]), group([4], [3, 2])])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 4, 3]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert packed.source.tolist() == [1, 2, 3, 1, 4, 5, 6]
    assert packed.targets.tolist() == [7, 8, 2, 9, 2, 3, 2]
    assert packed.lengths.tolist() == [3, 2, 2]


def test_only_counted_positions_are_targets() -> None:
    packed = pack([group([5, 6], [7, 8, 9, 2], [3, 2], counted=[[False, True, False, True], [False, False]])])
    assert packed.targets.tolist() == [8, 2]
    assert packed.source.tolist() == [2, 4]
    assert packed.lengths.tolist() == [2, 0]


def test_sixteen_completions_share_one_prompt() -> None:
    packed = pack([group([5, 6, 7], *([number, 2] for number in range(10, 26)))])
    assert packed.input_ids.shape == (1, 3 + 16)
    assert packed.position_ids[0, 3:].tolist() == [3] * 16
    assert packed.source[::2].tolist() == [2] * 16


def test_one_token_completions_add_nothing_to_the_row() -> None:
    packed = pack([group([5, 6], [2], [3])])
    assert packed.input_ids.tolist() == [[5, 6]]
    assert packed.source.tolist() == [1, 1]


def test_every_token_of_the_row_is_a_query_once(groups) -> None:
    packed = pack(groups)
    for window in (None, 3):
        tiles = [tile.place for stretch in packed.segments.stretches(window) for tile in stretch.tiles(4)]
        places = [place for tile in tiles for place in range(tile.start, tile.stop)]
        assert places == list(range(packed.input_ids.numel()))


def test_long_rows_have_few_lengths_and_short_ones_are_as_they_come(make_group) -> None:
    lengths = [pack([make_group(size, 5, 6)]).input_ids.numel() for size in (100, 1014, 1015, 1016, 1100)]
    assert lengths == [109, 1023, 1024, 1088, 1152]
    packed = pack([make_group(1100, 5, 6)])
    assert packed.position_ids[0, -44:].tolist() == [1104, *range(43)]
    assert packed.segments.stretches()[-1].begin == 1109
    assert int(packed.source.max()) == 1108


def test_empty_prompt_needs_an_uncounted_first_token() -> None:
    packed = pack([group([], [5, 6, 2], counted=[[False, True, True]])])
    assert packed.input_ids.tolist() == [[5, 6]]
    assert packed.source.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"row a\.jsonl:17: the prompt is empty.*completion 1.*BOS"):
        pack([group([], [5, 6], id="a.jsonl:17")])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: [], "empty list"),
        (lambda: [group([5], [3], [], id="a.jsonl:2")], r"row a\.jsonl:2: completion 2 is empty"),
        (lambda: [group([], [5], counted=[[False]], id="a.jsonl:3")], r"row a\.jsonl:3: no token can be predicted"),
    ],
)
def test_what_cannot_be_packed_is_named(bad, message) -> None:
    with pytest.raises(DataError, match=message):
        pack(bad())


def test_filling_is_a_sequence_of_its_own() -> None:
    packed = pack([group([5, 6], [7, 8, 2], [9, 2])], multiple=4)
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2]]
    assert packed.segments.num_tokens == 8
    assert packed.segments.spans[-1] == (5, 0, 5, 3, True)
    assert pack([group([5, 6], [7, 8, 2], [9, 2])], multiple=5).input_ids.shape == (1, 5)
