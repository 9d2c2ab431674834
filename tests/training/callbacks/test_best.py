"""The best weights, and an end where nothing gets better."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from exptilt.errors import TrainingError
from exptilt.losses import DPO
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.callbacks.best import Best
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.log import Evaluate, Log, LogMetrics
from exptilt.training.loop import train
from exptilt.training.sums import Sums


def feed(best, values, name="eval/loss", num_steps=100):
    """An evaluation every ten steps; where the run ended, or None."""
    place = Progress(step=0, num_steps=num_steps, steps_per_epoch=10)
    for number, value in enumerate(values):
        place.step = 10 * number
        best.on_metrics(place, {name: value})
        if place.is_last:
            return place.step
    return None


@pytest.mark.parametrize(
    ("which", "values", "kept", "ended"),
    [
        ("min", [5, 4, 4.5, 3, 3.5, 3.2, 9], [0, 10, 30], 50),
        ("max", [0.5, 0.4, 0.6, 0.6], [0, 20], None),
        ("min", [math.nan, 2, math.nan, 3], [10], 30),
        ("min", [1, 2, 2], [0], 20),
    ],
)
def test_keeps_every_improvement_and_ends_after_two_evaluations_without_one(which, values, kept, ended):
    seen = []
    best = Best(which, "eval/loss", lambda: seen.append(best.step), patience=2)
    assert feed(best, values) == ended
    assert seen == kept


def test_without_patience_it_never_ends():
    assert feed(Best("min", "eval/loss", lambda: None), [1, *[2] * 20], num_steps=1000) is None


def test_training_lines_are_not_judged_and_a_metric_nobody_measures_is_named():
    best = Best("min", "eval/kl", lambda: None)
    best.on_metrics(Progress(1, 2, 2), {"train/loss": 1.0})
    with pytest.raises(TrainingError, match=r"train\.best: 'eval/kl' is not measured .* measured are eval/loss$"):
        best.on_metrics(Progress(1, 2, 2), {"eval/loss": 1.0})


def test_a_run_that_ended_early_stays_ended_when_it_is_resumed(make_run, draw_rows, tmp_path):
    """Held-out losses 1, 2, 3 at steps 0, 2, 4 with patience 2: over at 4 of 9, the last line of training included."""

    def run_again():
        losses = iter([1.0, 2.0, 3.0, 4.0])
        kept = []
        log = Log(tmp_path / "metrics.jsonl")
        best = Best("min", "eval/loss", lambda: kept.append(1), patience=2)
        evaluate = Evaluate(log, 2, lambda: Sums({"loss": [next(losses), 1.0]}))
        log.listeners = callbacks = [log, best, evaluate, LogMetrics(log, 3)]
        return replace(run, callbacks=callbacks), kept

    run = make_run(DPO(), [[draw_rows("pair", 2)]] * 9, settings=TrainConfig(save_every=3))
    first, kept = run_again()
    place = train(first)
    assert (place.step, place.is_last, kept) == (4, True, [1])
    written = (tmp_path / "metrics.jsonl").read_text()
    assert [line.split('"')[2] for line in written.splitlines()] == [": 0, ", ": 2, ", ": 3, ", ": 4, ", ": 4, "]
    again, kept = run_again()
    place = train(again)
    assert (place.step, place.is_last, kept) == (4, True, [])
    assert (tmp_path / "metrics.jsonl").read_text() == written
