"""Checkpoints that cannot be read: the one before is taken, the reason is said, and nothing is ever deleted."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from exptilt.errors import CheckpointError
from exptilt.losses import DPO
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints
from exptilt.training.checkpoints.choice import choose_checkpoint, set_aside_after
from exptilt.training.loop import train


@pytest.fixture
def three(tmp_path):
    """Steps 2, 9 and 10."""
    for step in (2, 9, 10):
        Checkpoints(tmp_path, keep=9).save(step, {"w": torch.arange(3.0)})
    return tmp_path


@contextmanager
def failing_reads(monkeypatch, pattern, number=errno.EIO):
    """A disk that fails wherever a path that fits is opened; pathlib and builtins both open through `io.open`."""
    real = io.open

    def broken(file, *arguments, **named):
        if re.search(pattern, str(file)):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", broken)
        patch.setattr(builtins, "open", broken)
        yield


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_one_before_is_taken_and_the_reason_is_in_the_words_of_the_system(three, monkeypatch):
    before = content(three)
    with failing_reads(monkeypatch, r"step-00000010/manifest"):
        choice = choose_checkpoint(three)
    assert choice.taken == three / "step-00000009"
    assert "step-00000010 (manifest.json: Input/output error" in choice.in_words()
    with failing_reads(monkeypatch, r"step-0000001?0?.*(9|10)/.*distcp", errno.EACCES):
        choice = choose_checkpoint(three)
    assert choice.taken == three / "step-00000002"
    assert choice.in_words().count("Permission denied") == 2
    assert content(three) == before


def test_if_none_can_be_read_the_run_stops_names_the_choices_and_deletes_none(three, monkeypatch):
    before = content(three)
    with failing_reads(monkeypatch, r"manifest\.json"), pytest.raises(CheckpointError) as caught:
        choose_checkpoint(three)
    for words in ("step-00000010", "Input/output error", "nor can 2 older", "another output", "train.resume=never"):
        assert words in str(caught.value)
    assert content(three) == before


def test_a_folder_that_cannot_be_listed_is_no_empty_one(three, monkeypatch):
    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be listed \(Input/output error"):
        choose_checkpoint(three)


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("state.pt", lambda path: path.write_bytes(path.read_bytes()[:-1]), r"state.pt has \d+ bytes instead of \d+"),
        ("state.pt", lambda path: path.write_bytes(b"x" * path.stat().st_size), "state.pt has changed since"),
        ("state.pt", Path.unlink, "state.pt is missing"),
        ("manifest.json", Path.unlink, "manifest.json is missing"),
        ("manifest.json", lambda path: path.write_text("{"), "manifest.json is damaged"),
    ],
)
def test_what_is_wrong_with_a_damaged_one_is_said(three, name, damage, why):
    damage(three / "step-00000010" / name)
    choice = choose_checkpoint(three)
    assert choice.taken.name == "step-00000009"
    assert re.search(why, choice.in_words())


def test_what_lies_past_a_step_gets_another_name_and_replaces_nothing(three):
    before = content(three)
    assert [path.name for path in set_aside_after(three, 9)] == ["aside-step-00000010"]
    Checkpoints(three, keep=9).save(10, {"w": torch.zeros(3)})
    assert [path.name for path in set_aside_after(three, 9)] == ["aside-step-00000010-2"]
    after = content(three)
    assert all(after[name.replace("step-00000010", "aside-step-00000010")] == before[name] for name in before)
    assert set_aside_after(three / "never made", 0) == []


def test_a_run_goes_on_from_the_one_before_and_keeps_the_one_it_could_not_read(
    make_run, draw_rows, monkeypatch, caplog
):
    steps = [[draw_rows("pair", 2)]] * 4
    settings = TrainConfig(save_every=1, keep_checkpoints=2)
    train(make_run(DPO(), steps, settings=settings))
    run = make_run(DPO(), steps, settings=settings)
    last = content(run.checkpoints / "step-00000004")
    with failing_reads(monkeypatch, r"step-00000004/manifest"):
        assert train(run).step == 4
    (said,) = [record.message for record in caplog.records if "goes on from this checkpoint" in record.message]
    assert "step-00000003" in said
    assert "Input/output error" in said
    assert content(run.checkpoints / "aside-step-00000004") == last
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["aside-step-00000004", "step-00000003", "step-00000004"]
    with failing_reads(monkeypatch, r"manifest\.json"), pytest.raises(CheckpointError, match=r"train\.resume=never"):
        train(make_run(DPO(), steps, settings=settings))
    assert sorted(path.name for path in run.checkpoints.iterdir()) == names


def test_never_leaves_the_old_checkpoints_aside(make_run, draw_rows):
    steps = [[draw_rows("pair", 2)]] * 4
    train(make_run(DPO(), steps, settings=TrainConfig(save_every=2)))
    run = make_run(DPO(), steps[:2], settings=TrainConfig(save_every=1, resume="never"))
    assert train(run).step == 2
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["aside-step-00000002", "aside-step-00000004", "step-00000001", "step-00000002"]
