from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.data.batching import Batches, budget_use, by_size, pack
from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import prepare
from exptilt.settings.data_settings import BatchConfig, DataConfig


def group(name, *lengths, prompt=1):
    parts = (Completion(ids=np.zeros(n, dtype=np.int32), counted=np.ones(n, dtype=bool)) for n in lengths)
    return Group(id=str(name), prompt=np.zeros(prompt, dtype=np.int32), completions=tuple(parts))


def groups_of(lengths):
    return [group(n, length) for n, length in enumerate(lengths)]


def ids(micro_batches):
    return [[member.id for member in micro] for micro in micro_batches]


LENGTHS = st.lists(st.integers(1, 30), min_size=8, max_size=40)


def test_first_fit_decreasing_by_hand():
    # sizes with prompt 1: 7, 5, 4, 3, 2 in bins of 10: 7+3, 5+4, 2 -> 7+3, 5+4 has 1 left, so 2 opens a bin
    bins = pack(groups_of([3, 6, 1, 4, 2]), 10)
    assert ids(bins) == [["1", "4"], ["3", "0"], ["2"]]


def test_a_shared_prompt_is_paid_once_and_a_giant_stands_alone():
    assert ids(pack([group("a", 2, 2, prompt=5), group("b", 1, prompt=1)], 11)) == [["a", "b"]]
    assert ids(pack([group("a", 50), group("b", 1), group("c", 2)], 10)) == [["a"], ["c", "b"]]
    assert ids(pack(groups_of([1, 2]), None)) == [["0", "1"]]


@given(LENGTHS, st.integers(8, 16), st.integers(1, 8), st.integers(0, 3), st.integers(1, 40))
def test_every_group_once_per_epoch_within_the_budget_on_any_number_of_processes(lengths, size, world, seed, tokens):
    groups = groups_of(lengths)
    config = BatchConfig(size=size, tokens=tokens)
    alone = Batches(groups, config, seed=seed)
    ranks = [Batches(groups, config, seed=seed, rank=rank, world_size=world) for rank in range(world)]
    for epoch in range(2):
        seen = Counter()
        for step in range(epoch * ranks[0].num_steps, (epoch + 1) * ranks[0].num_steps):
            micro = [batches.step(step) for batches in ranks]
            assert len({len(mine) for mine in micro}) == 1
            for mine in micro:
                assert mine[0]
                filled = [bool(part) for part in mine]
                assert filled == sorted(filled, reverse=True)
            in_step = [member for mine in micro for part in mine for member in part]
            for part in (part for mine in micro for part in mine):
                assert len(part) <= 1 or sum(member.num_tokens for member in part) <= tokens
            assert sorted(m.id for m in in_step) == sorted(m.id for m in ranks[0].groups(step))
            if len(groups) % size == 0 or len(groups) % size >= world:
                assert sorted(m.id for m in in_step) == sorted(m.id for part in alone.step(step) for m in part)
            seen.update(member.id for member in in_step)
        assert seen == Counter(member.id for member in groups)


def test_what_cannot_be_split_leaves_the_last_processes_an_empty_micro_batch():
    groups = groups_of([5, 4, 3, 2, 1])
    ranks = [Batches(groups, BatchConfig(size=5, tokens=3, shuffle=False), rank=r, world_size=4) for r in range(4)]
    assert [ids(batches.step(0)) for batches in ranks] == [[["0"], ["4"]], [["1"], []], [["2"], []], [["3"], []]]


def test_how_full_micro_batches_are_by_hand():
    # 7+3 of 10, 5+4 of 10, 2 of 10; then 5 of 10
    use = budget_use([pack(groups_of([3, 6, 1, 4, 2]), 10), pack(groups_of([4]), 10), []], 10)
    assert (use.steps, use.groups, use.micro_batches, use.num_tokens, use.num_over) == (3, 6, 4, 26, 0)
    assert use.fill == pytest.approx(26 / 40)
    assert use.finding().code == "batches"
    assert "a step of 2 examples is 1.33 micro-batches of at most 10 tokens, 65 % full" in use.finding().message


def test_examples_over_the_budget_are_counted_and_not_mixed_into_how_full_the_others_are():
    use = budget_use([pack(groups_of([50, 4, 4]), 10)], 10)
    assert (use.num_over, use.fill) == (1, 1.0)
    assert (use.finding().code, use.finding().severity, use.finding().count) == ("over_budget", "warning", 1)
    assert budget_use([pack(groups_of([50]), 10)], 10).fill == 0


def test_real_rows_fill_the_budget(real_data, base_tokenizer):
    path = real_data / "hh_rlhf/harmless-base.test.jsonl.gz"
    rows = prepare(DataConfig(train=str(path), on_empty="drop", limit=1100), base_tokenizer, "pair").train
    for size, least in ((64, 0.85), (512, 0.97)):  # the last micro-batch of a step holds what is left
        use = budget_use(Batches(rows, BatchConfig(size=size, tokens=8192), seed=0), 8192)
        assert use.groups == len(rows)
        assert least < use.fill <= 1
        assert use.micro_batches - use.num_over <= use.num_tokens / 8192 + 1.2 * use.steps


def test_the_last_short_batch_is_kept_and_every_step_but_it_is_full():
    batches = Batches(groups_of(range(1, 11)), BatchConfig(size=4), seed=3)
    assert [len(batches.groups(step)) for step in range(batches.num_steps)] == [4, 4, 2]


def test_a_last_batch_smaller_than_the_processes_takes_from_the_one_before():
    batches = Batches(groups_of(range(1, 10)), BatchConfig(size=4), rank=1, world_size=2)
    assert [len(batches.groups(step)) for step in range(3)] == [4, 3, 2]
    joined = Batches(groups_of(range(1, 10)), BatchConfig(size=4), rank=2, world_size=3)
    assert [len(joined.groups(step)) for step in range(2)] == [4, 5]


def test_a_step_depends_on_its_number_and_the_seed_only():
    groups = groups_of(range(1, 30))
    config = BatchConfig(size=8, tokens=40)
    walked = Batches(groups, config, seed=5)
    whole = [ids(walked.step(step)) for step in range(9)]
    assert ids(Batches(groups, config, seed=5).step(6)) == whole[6]
    assert whole[:4] != whole[4:8]
    assert [ids(Batches(groups, config, seed=6).step(step)) for step in range(9)] != whole
    assert walked.epoch(3) == 0
    assert walked.epoch(4) == 1


def test_the_groups_of_a_step_do_not_depend_on_the_number_of_processes():
    groups = groups_of(range(1, 21))
    one = Batches(groups, BatchConfig(size=8), seed=1)
    two = Batches(groups, BatchConfig(size=8), seed=1, rank=1, world_size=2)
    assert [[m.id for m in one.groups(s)] for s in range(6)] == [[m.id for m in two.groups(s)] for s in range(6)]


def test_without_shuffling_the_order_of_the_file_is_kept():
    batches = Batches(groups_of([1, 1, 1, 1, 1]), BatchConfig(size=2, shuffle=False))
    assert [[m.id for m in batches.groups(step)] for step in range(4)] == [["0", "1"], ["2", "3"], ["4"], ["0", "1"]]
    assert len(list(batches)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchConfig(size=0), "size must be at least 1, got 0"),
        (lambda: BatchConfig(tokens=0), "tokens must be at least 1, got 0"),
        (lambda: Batches(groups_of([1]), BatchConfig(), world_size=2), "there are 1 groups for 2 processes"),
        (lambda: Batches(groups_of([1, 1]), BatchConfig(size=1), world_size=2), "batch size must be at least"),
        (lambda: Batches(groups_of([1]), BatchConfig(), rank=1), r"rank must be in \[0, world_size\), got 1 of 1"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_groups_of_like_size_stay_within_the_budget_and_none_is_lost() -> None:
    sizes = [int(size) for size in np.random.default_rng(0).integers(1, 60, 200)]
    found = list(by_size(sizes, tokens=45))
    assert sorted(index for batch in found for index in batch) == list(range(200))
    assert all(sum(sizes[index] for index in batch) <= 45 or len(batch) == 1 for batch in found)
    order = [sizes[index] for batch in found for index in batch]
    assert order == sorted(sizes, reverse=True)
