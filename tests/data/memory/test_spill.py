from __future__ import annotations

import pytest

from exptilt.data.memory import spill as module
from exptilt.data.memory.spill import Shelf, selected
from exptilt.data.prepared import prepare
from exptilt.data.records import Demonstration, Preference
from exptilt.settings.data_settings import DataConfig


def records(count):
    return [
        Preference(id=f"a:{n}", prompt=({"role": "user", "content": f"Q{n}"},), chosen="é", rejected="\n", margin=n / 7)
        if n % 2
        else Demonstration(id=f"a:{n}", prompt="p", completion="c", template_args={"tools": [n]})
        for n in range(count)
    ]


@pytest.mark.parametrize("in_memory", [0, 700, 5000])
@pytest.mark.parametrize("count", [0, 1, 256, 257, 1500])
def test_what_is_put_on_comes_back_in_order_wherever_it_lies(monkeypatch, in_memory, count):
    monkeypatch.setattr(module, "MOST_IN_MEMORY", in_memory)
    made = records(count)
    shelf = Shelf(made)
    assert len(shelf) == count
    assert list(shelf) == made
    assert list(shelf) == made
    assert [shelf[at] for at in range(count - 1, -1, -97)] == made[::-97]
    assert shelf[3:9] == made[3:9]
    shelf.append(made[0] if made else records(1)[0])
    assert shelf[-1] == records(1)[0]


def test_beyond_the_limit_records_leave_memory(monkeypatch):
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 512)
    shelf = Shelf(records(2000))
    assert not any(isinstance(chunk, list) for chunk in shelf._full)


def test_a_selection_may_leave_out_repeat_and_change():
    made = records(6)
    some = selected(Shelf(made), [4, 1, 1], {2: made[5]})
    assert (list(some), len(some), some[-1], some[:1]) == ([made[4], made[1], made[5]], 3, made[5], [made[4]])
    assert list(selected(some, [2, 0])) == [made[5], made[4]]
    with pytest.raises(IndexError, match="there are 3 records"):
        some[3]


def test_where_records_lie_changes_nothing(real_data, base_tokenizer, monkeypatch):
    policies = {f"on_{name}": "drop" for name in ("empty", "duplicate", "conflict")}
    config = DataConfig(
        train=str(real_data / "hh_rlhf/harmless-base.test.jsonl.gz"), test_fraction=0.1, limit=900, **policies
    )
    made = []
    for limit in (20_000, 0):
        monkeypatch.setattr(module, "MOST_IN_MEMORY", limit)
        prepared = prepare(config, base_tokenizer, "pair")
        tokens = [(group.id, group.prompt.tobytes(), group.completions[0].ids.tobytes()) for group in prepared.train]
        made.append((tokens, prepared.report))
    assert made[0] == made[1]
