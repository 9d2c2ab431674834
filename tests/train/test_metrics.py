"""Metrics are sums over sums, and the file is whole after a resume."""

from __future__ import annotations

import json

from exptilt.train.callbacks import LogMetrics, Progress
from exptilt.train.metrics_file import MetricsFile
from exptilt.train.sums import Sums


def sums(total, weight):
    return Sums({"loss": [total, weight], "tokens": [10.0, 1.0]})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_logged_mean_weighs_steps_by_their_rows(tmp_path):
    """Two steps of 1 and 3 rows with row losses 4 and 0, 0, 0 have the mean 1, not 2."""
    log = LogMetrics(MetricsFile(tmp_path / "metrics.jsonl"), every=2)
    place = Progress(step=0, num_steps=5, steps_per_epoch=5)
    for total, weight in [(4.0, 1.0), (0.0, 3.0)]:
        place.step += 1
        log.after_step(place, sums(total, weight))
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["step"] == 2
    assert line["epoch"] == 0.4
    assert line["train/loss"] == 1.0


def test_the_last_step_is_written_whatever_the_interval(tmp_path):
    log = LogMetrics(MetricsFile(tmp_path / "metrics.jsonl"), every=100)
    log.after_step(Progress(step=3, num_steps=3, steps_per_epoch=3), sums(1.0, 1.0))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [3]


def test_a_window_survives_a_checkpoint(tmp_path):
    place = Progress(step=1, num_steps=4, steps_per_epoch=4)
    first = LogMetrics(MetricsFile(tmp_path / "metrics.jsonl"), every=2)
    first.after_step(place, sums(4.0, 1.0))
    resumed = LogMetrics(MetricsFile(tmp_path / "metrics.jsonl"), every=2)
    resumed.restore(first.state())
    resumed.after_step(Progress(step=2, num_steps=4, steps_per_epoch=4), sums(0.0, 3.0))
    assert lines(tmp_path / "metrics.jsonl")[0]["train/loss"] == 1.0


def test_lines_past_the_resumed_step_and_torn_lines_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n{"step": 8, "a"')
    MetricsFile(path).cut_after(4)
    assert [line["step"] for line in lines(path)] == [2, 4]
