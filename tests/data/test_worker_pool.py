from __future__ import annotations

import os
import signal
import time

import pytest

from exptilt.data import prepared as preparing
from exptilt.data.cache import DataCache
from exptilt.data.prepared import prepare
from exptilt.data.worker_pool import mapped, num_workers
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig


def test_results_come_in_order_from_several_processes_and_few_items_wait():
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.01 if number % 2 else 0)  # the second of two is done first
        return number * number, os.getpid()

    ahead, processes = [], set()
    for number, (item, (square, process)) in enumerate(mapped(work, items(), 2)):
        assert (item, square) == (number, number * number)
        ahead.append(len(taken) - number)
        processes.add(process)
    assert len(taken) == 40
    assert max(ahead) <= 4
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_worker_that_is_killed_is_one_line_and_an_error_in_one_is_the_same_error_here():
    def killed(number):
        os.kill(os.getpid(), signal.SIGKILL)

    def refused(number):
        raise DataError(f"row {number} is wrong")

    with pytest.raises(DataError, match=r"^one of 2 processes that prepare rows was killed, .*set data.workers"):
        list(mapped(killed, range(8), 2))
    with pytest.raises(DataError, match=r"^row 0 is wrong$"):
        list(mapped(refused, range(8), 2))


def test_one_worker_is_this_process_and_the_tokenizers_switch_is_as_before(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    assert list(mapped(lambda _: os.getpid(), [1], 1)) == [(1, os.getpid())]
    assert [used for _, used in mapped(lambda _: os.environ["TOKENIZERS_PARALLELISM"], [1], 2)] == ["false"]
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert num_workers(3) == 3
    assert num_workers(None) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("kind", ["pair", "unpaired"])
def test_several_processes_prepare_what_one_prepares(write_rows, base_tokenizer, monkeypatch, kind):
    rows = [{"prompt": f"ask {n % 700}", "chosen": f"good {n % 690}", "rejected": f"bad {n % 3}"} for n in range(1400)]
    rows[7]["chosen"], rows[900]["rejected"] = "", "[INST] again"
    path = write_rows("rows.jsonl", rows)
    monkeypatch.setattr(DataCache, "of", lambda *_: None)
    monkeypatch.setattr(preparing, "ROWS_FOR_WORKERS", 100)
    made = []
    for workers in (1, 2):
        settings = DataConfig(
            train=str(path),
            workers=workers,
            on_empty="drop",
            on_duplicate="drop",
            on_conflict="soft",
            test_fraction=0.1,
        )
        made.append(prepare(settings, base_tokenizer, kind, 40))
    one, two = made
    assert one.report == two.report
    assert one.report.train.examples_left_out["empty"] >= 1
    assert len(one.train) == len(two.train) > 600
    for alone, pooled in zip((*one.train, *one.test), (*two.train, *two.test), strict=True):
        assert (alone.id, alone.label, alone.weight) == (pooled.id, pooled.label, pooled.weight)
        assert alone.prompt.tolist() == pooled.prompt.tolist()
        for left, right in zip(alone.completions, pooled.completions, strict=True):
            assert (left.ids.tolist(), left.counted.tolist()) == (right.ids.tolist(), right.counted.tolist())
