"""Metrics are sums over sums, seen by all who listen, and the file is whole after a resume."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from exptilt.processes.world import World
from exptilt.run_folder.metrics_file import MetricsFile
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.log import Evaluate, Log, LogMetrics
from exptilt.training.sums import Sums
from exptilt.training.throughput import Work


def sums(total, weight, **counts):
    made = Sums({"loss": [total, weight]})
    for name, value in counts.items():
        made.count(name, value)
    return made


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "metrics.jsonl")


class Heard(Callback):
    def __init__(self):
        self.lines = []

    def on_metrics(self, progress, values):
        self.lines.append((progress.step, dict(values)))


def test_sums_left_on_a_device_are_the_same_numbers():
    """1 + 2 of weight 1 + 3, and what is added as numbers after it; a copy for another process holds numbers alone."""
    first, second = Sums(), Sums()
    first.add_block(("a", "b"), torch.tensor([[1.0, 1.0], [5.0, 2.0]], dtype=torch.float64))
    second.add_block(("a", "b"), torch.tensor([[2.0, 3.0], [0.0, 0.0]], dtype=torch.float64))
    first.merge(second)
    first.add("b", 1.0, 1.0)
    assert pickle.loads(pickle.dumps(first)).means() == first.means() == {"a": 0.75, "b": 2.0}
    assert first.totals == {"a": [3.0, 4.0], "b": [6.0, 3.0]}
    assert second.totals["a"] == [2.0, 3.0]


def test_a_logged_mean_weighs_steps_by_their_rows(log, tmp_path):
    """Two steps of 1 and 3 rows with row losses 4 and 0, 0, 0 have the mean 1, not 2."""
    metrics = LogMetrics(log, every=2)
    place = Progress(step=0, num_steps=5, steps_per_epoch=5)
    for total, weight in [(4.0, 1.0), (0.0, 3.0)]:
        place.step += 1
        metrics.after_step(place, sums(total, weight))
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["step"] == 2
    assert line["epoch"] == 0.4
    assert line["train/loss"] == 1.0


def test_speed_counts_prompts_as_often_as_they_are_used_and_once(log):
    """30 tokens, 20 of them unique, in 2 + 3 seconds; a token costs 10 operations of 100 a second."""
    heard = Heard()
    log.listeners = [heard]
    metrics = LogMetrics(log, every=2, work=Work("matmul_floor_share", 10.0, 100.0))
    place = Progress(step=0, num_steps=4, steps_per_epoch=4)
    metrics.on_start(place)
    for seconds in (2.0, 3.0):
        place.step += 1
        metrics.after_step(place, sums(1.0, 1.0, seconds=seconds, tokens=15, unique_tokens=10))
    ((step, values),) = heard.lines
    assert step == 2
    assert values["train/tokens_per_second"] == 6.0
    assert values["train/unique_tokens_per_second"] == 4.0
    assert values["train/seconds_per_step"] == 2.5
    assert values["train/matmul_floor_share"] == pytest.approx(0.4)
    assert values["train/seconds_left"] > 0
    assert 0.01 < values["train/peak_memory_gb"] < 1000
    assert "train/tokens" not in values
    assert "train/seconds" not in values


def test_the_last_step_is_written_whatever_the_interval(log, tmp_path):
    LogMetrics(log, every=100).after_step(Progress(step=3, num_steps=3, steps_per_epoch=3), sums(1.0, 1.0))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [3]


def test_a_window_survives_a_checkpoint(log, tmp_path):
    first = LogMetrics(log, every=2)
    first.after_step(Progress(step=1, num_steps=4, steps_per_epoch=4), sums(4.0, 1.0))
    resumed = LogMetrics(log, every=2)
    resumed.restore(first.state())
    resumed.after_step(Progress(step=2, num_steps=4, steps_per_epoch=4), sums(0.0, 3.0))
    assert lines(tmp_path / "metrics.jsonl")[0]["train/loss"] == 1.0


def test_lines_past_the_resumed_step_and_torn_lines_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n{"step": 8, "a"')
    MetricsFile(path).cut_after(4)
    assert [line["step"] for line in lines(path)] == [2, 4]


@pytest.mark.parametrize(("step", "left"), [(0, []), (4, [0, 4])])
def test_a_start_cuts_what_will_be_written_again(log, tmp_path, step, left):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n')
    log.on_start(Progress(step=step, num_steps=9, steps_per_epoch=9))
    assert [line["step"] for line in lines(path)] == left


def test_other_processes_write_nothing_and_hear_the_numbers_of_the_first(tmp_path):
    class Second(World):
        def first(self, mine):
            return {"train/loss": 1.0}

    heard = Heard()
    Log(tmp_path / "metrics.jsonl", [heard], Second(rank=1, size=2)).write(Progress(5, 9, 9), {"train/loss": 2.0})
    assert heard.lines == [(5, {"train/loss": 1.0})]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_held_out_rows_and_samples_make_one_line(log, tmp_path):
    evaluate = Evaluate(log, 2, lambda: sums(3.0, 2.0), lambda progress: Sums({"kl": [progress.step, 1.0]}))
    place = Progress(step=0, num_steps=5, steps_per_epoch=5)
    evaluate.on_start(place)
    for place.step in range(1, 6):
        evaluate.after_step(place, Sums())
    found = lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["eval/loss"], line["eval/kl"]) for line in found] == [
        (step, 1.5, float(step)) for step in (0, 2, 4, 5)
    ]
