"""Trackers through accelerate: one made for the test, and those that happen to be installed."""

from __future__ import annotations

import os
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from exptilt.errors import ConfigError, TrainingError
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.trackers import Trackers, require_trackers

calls: list[Any] = []


class Diary(GeneralTracker):
    """Writes down what it is told, and breaks where the test says."""

    name = "diary"
    requires_logging_directory = True
    broken = ""

    def __init__(self, project: str, place: str, **settings: Any) -> None:
        super().__init__()
        calls.append(("made", project, place, settings))

    @property
    def tracker(self) -> list[Any]:
        return calls

    @tracking.on_main_process
    def start(self) -> None:
        tracking.logger.debug("accelerate's own loggers must work")
        self._do("start")

    @tracking.on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._do("recipe", values)

    @tracking.on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._do("log", step, values)

    @tracking.on_main_process
    def finish(self) -> None:
        self._do("finish")

    def _do(self, what: str, *more: Any) -> None:
        if self.broken == what:
            raise OSError("the wire\nis cut")
        calls.append((what, *more))


@pytest.fixture
def diary(monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "diary", Diary)
    monkeypatch.setattr(Diary, "broken", "")
    calls.clear()
    return Diary


def walk(trackers, start=0, end=2):
    place = Progress(start, 9, 9)
    trackers.on_start(place)
    for place.step in range(start + 1, end + 1):
        trackers.on_metrics(place, {"train/loss": 1 / place.step})
    trackers.on_end(place)


def test_a_tracker_gets_the_recipe_once_and_every_line(diary, tmp_path):
    recipe = {"loss": {"name": "dpo", "beta": 0.1}, "seed": 0, "sft": None, "report_to": ["diary"]}
    trackers = Trackers(["diary"], tmp_path, recipe)
    walk(trackers)
    assert calls == [
        ("made", "exptilt", str(tmp_path), {}),
        ("start",),
        ("recipe", {"loss.name": "dpo", "loss.beta": 0.1, "seed": 0, "sft": "None", "report_to": "['diary']"}),
        ("log", 1, {"train/loss": 1.0}),
        ("log", 2, {"train/loss": 0.5}),
        ("finish",),
    ]
    calls.clear()
    again = Trackers(["diary"], tmp_path, recipe)
    again.restore(trackers.state())
    walk(again, start=2, end=3)
    assert [call[0] for call in calls] == ["made", "start", "log", "finish"]
    assert again.key == trackers.key


def test_the_environment_of_several_processes_is_not_looked_at(diary, tmp_path, monkeypatch):
    """With it accelerate would set up a process group, threads and devices of its own."""
    from accelerate.state import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    several = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    for name, value in several.items():
        monkeypatch.setenv(name, value)
    walk(Trackers(["diary"], tmp_path, {}))
    assert calls[-1] == ("finish",)
    assert {name: os.environ[name] for name in several} == several


def test_one_that_cannot_begin_ends_the_run_in_one_line(diary, tmp_path, monkeypatch):
    monkeypatch.setattr(diary, "broken", "start")
    with pytest.raises(TrainingError, match=r"^train\.report_to: diary cannot begin \(the wire is cut\); take it out"):
        walk(Trackers(["diary"], tmp_path, {}))


def test_one_that_fails_later_is_said_once_and_left_out(diary, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(diary, "broken", "log")
    walk(Trackers(["diary"], tmp_path, {}), end=5)
    (record,) = caplog.records
    assert "diary failed at step 1 (the wire is cut)" in record.getMessage()
    assert [call[0] for call in calls] == ["made", "start", "recipe"]


def test_a_tracker_nobody_knows_and_one_that_is_not_installed(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        require_trackers(["tensorbord"])
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ConfigError, match=r"wandb is not installed; pip install 'exptilt\[wandb\]', or take it out"):
        require_trackers(["wandb"])
    with pytest.raises(ConfigError, match=r"aim is not installed; pip install aim,"):
        require_trackers(["aim"])
    require_trackers([])


def test_tensorboard_goes_on_where_it_was(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(["tensorboard"], tmp_path, {"seed": 0})
    walk(trackers, end=4)
    again = Trackers(["tensorboard"], tmp_path, {"seed": 0})
    again.restore(trackers.state())
    walk(again, start=2, end=3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
