"""A checkpoint is complete or does not exist."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from exptilt.errors import CheckpointError
from exptilt.train.checkpoint import (
    discard_after,
    is_complete,
    load_checkpoint,
    newest_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)

STATE = {"step": 3, "model": {"w": torch.arange(4.0)}, "note": ["a", 1.5, None]}


def test_round_trip(tmp_path):
    path = save_checkpoint(tmp_path, 3, STATE, keep=2)
    loaded = load_checkpoint(path)
    assert loaded["model"]["w"].tolist() == [0, 1, 2, 3]
    assert loaded["note"] == ["a", 1.5, None]


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_one_byte_less_and_the_one_before_is_taken(tmp_path, name):
    before = save_checkpoint(tmp_path, 1, STATE, keep=5)
    damaged = save_checkpoint(tmp_path, 2, STATE, keep=5) / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert newest_checkpoint(tmp_path) == before
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_checkpoint(damaged.parent)


def test_one_flipped_bit_is_seen(tmp_path):
    path = save_checkpoint(tmp_path, 1, STATE, keep=5)
    content = bytearray((path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.pt").write_bytes(bytes(content))
    assert not is_complete(path)


def test_an_abandoned_write_is_never_taken_and_later_removed(tmp_path):
    (tmp_path / ".writing-step-00000007-1").mkdir()
    assert newest_checkpoint(tmp_path) is None
    path = save_checkpoint(tmp_path, 1, STATE, keep=1)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_a_refusing_disk_is_said_and_earlier_ones_stay(tmp_path, monkeypatch):
    before = save_checkpoint(tmp_path, 1, STATE, keep=5)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*earlier checkpoints are intact"):
        save_checkpoint(tmp_path, 2, STATE, keep=5)
    assert newest_checkpoint(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_lies_past_a_step_is_discarded(tmp_path):
    for step in (2, 9, 10, 11):
        save_checkpoint(tmp_path, step, STATE, keep=9)
    discard_after(tmp_path, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000009"]
    discard_after(tmp_path, 0)
    discard_after(tmp_path / "never made", 0)
    assert list(tmp_path.iterdir()) == []


def test_every_generator_goes_on_where_it_was(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"random": random_state()}, keep=1)

    def draw():
        return [torch.rand(2).tolist(), random.random(), np.random.rand(2).tolist()]  # noqa: NPY002

    first = draw()
    draw()
    restore_random_state(load_checkpoint(path)["random"])
    assert draw() == first
