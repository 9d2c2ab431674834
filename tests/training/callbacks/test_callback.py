"""The protocol as docs/callbacks.md tells it."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exptilt.losses import DPO
from exptilt.settings.training_settings import ALARMS, GUARD_RAILS
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.log import Evaluate, Log
from exptilt.training.loop import train
from exptilt.training.sums import Sums

PAGE = (Path(__file__).parents[3] / "docs" / "callbacks.md").read_text()


def test_the_example_of_the_page_ends_a_run_and_goes_on_after_a_resume(make_run, draw_rows, tmp_path):
    """Lengths 10, 12, 16: half as long again at the third evaluation, step 4 of 6."""
    names: dict[str, type[Callback]] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], names)
    mine = names["StopWhenLong"]()
    lengths = iter([10.0, 12.0, 16.0])
    log = Log(tmp_path / "metrics.jsonl")
    evaluate = Evaluate(log, 2, Sums, lambda progress: Sums({"sample_length": [next(lengths), 1.0]}))
    log.listeners = callbacks = [log, mine, evaluate]
    place = train(replace(make_run(DPO(), [[draw_rows("pair", 2)]] * 6), callbacks=callbacks))
    assert (place.step, place.is_last) == (4, True)
    other = names["StopWhenLong"]()
    other.restore(mine.state())
    place = Progress(step=2, num_steps=6, steps_per_epoch=6)
    other.on_metrics(place, {"eval/sample_length": 15.0})
    assert not place.is_last
    other.on_metrics(place, {"eval/sample_length": 15.1})
    assert place.is_last


def test_the_page_names_every_hook_and_every_warning():
    hooks = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction)]
    for hook in hooks:
        assert f"`{hook}(" in PAGE, hook
    assert set(GUARD_RAILS) == set(re.findall(r"^\| `(\w+)` (?:\(alarm\) )?\|", PAGE, re.M))
    assert set(ALARMS) == set(re.findall(r"^\| `(\w+)` \(alarm\) \|", PAGE, re.M))


def test_a_callback_is_told_of_the_end_whatever_ends_the_run(make_run, draw_rows):
    class Fails(Callback):
        ended = 0

        def after_step(self, progress, sums):
            if progress.step == 2:
                raise RuntimeError("mine")

        def on_end(self, progress):
            self.ended = progress.step

    callback = Fails()
    with pytest.raises(RuntimeError, match="mine"):
        train(make_run(DPO(), [[draw_rows("pair", 2)]] * 6, callbacks=[callback]))
    assert callback.ended == 2
