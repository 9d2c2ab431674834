"""A checkpoint is complete or does not exist."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from exptilt.errors import CheckpointError
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints
from exptilt.training.checkpoints.choice import is_complete, newest_checkpoint
from exptilt.training.checkpoints.read_checkpoint import load_checkpoint, load_own
from exptilt.training.checkpoints.run_state import random_state, restore_random_state

STATE = {"step": 3, "model": {"w": torch.arange(4.0)}, "note": ["a", 1.5, None, (torch.ones(2), torch.tensor(7))]}


def save_checkpoint(folder, step, state, keep, own=None):
    Checkpoints(folder, keep).save(step, state, own)
    return folder / f"step-{step:08d}"


def test_round_trip(tmp_path):
    path = save_checkpoint(tmp_path, 3, STATE, keep=2)
    loaded = load_checkpoint(path)
    assert loaded["model"]["w"].tolist() == [0, 1, 2, 3]
    assert loaded["note"][:3] == ["a", 1.5, None]
    ones, seven = loaded["note"][3]
    assert (ones.tolist(), int(seven)) == ([1, 1], 7)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]


@pytest.mark.parametrize("name", ["state.pt", "manifest.json", "__0_0.distcp", ".metadata", "process-00000.pt"])
def test_one_byte_less_and_the_one_before_is_taken(tmp_path, name):
    before = save_checkpoint(tmp_path, 1, STATE, keep=5)
    damaged = save_checkpoint(tmp_path, 2, STATE, keep=5) / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert newest_checkpoint(tmp_path) == before
    assert not is_complete(damaged.parent)


def test_one_flipped_bit_is_seen(tmp_path):
    path = save_checkpoint(tmp_path, 1, STATE, keep=5)
    shard = path / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
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

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*earlier checkpoints are intact"):
        save_checkpoint(tmp_path, 2, STATE, keep=5)
    assert newest_checkpoint(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


def test_every_generator_goes_on_where_it_was(tmp_path):
    path = save_checkpoint(tmp_path, 1, STATE, keep=1, own=random_state())

    def draw():
        return [torch.rand(2).tolist(), random.random(), np.random.rand(2).tolist()]  # noqa: NPY002

    first = draw()
    draw()
    restore_random_state(load_own(path, 0))
    assert draw() == first
    assert load_own(path, 1) is None


def test_in_the_background_a_copy_is_written_and_it_is_there_once_settled(tmp_path):
    weights = torch.zeros(3)
    checkpoints = Checkpoints(tmp_path, keep=1, in_background=True)
    checkpoints.save(1, {"w": weights})
    weights.add_(1)
    assert newest_checkpoint(tmp_path) is None
    checkpoints.save(2, {"w": weights})
    weights.add_(1)
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    assert load_checkpoint(tmp_path / "step-00000001")["w"].tolist() == [0, 0, 0]
    checkpoints.settle()
    assert load_checkpoint(newest_checkpoint(tmp_path))["w"].tolist() == [1, 1, 1]
    assert [child.name for child in tmp_path.iterdir()] == ["step-00000002"]


def test_what_goes_wrong_in_the_background_is_said_when_settled(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, in_background=True)
    checkpoints.save(1, STATE)
    checkpoints.settle()
    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    checkpoints.save(2, STATE)
    with pytest.raises(CheckpointError, match=r"step-00000002: .*No space left on device"):
        checkpoints.settle()
    assert newest_checkpoint(tmp_path).name == "step-00000001"


def test_of_large_files_blocks_are_digested_the_first_and_the_last_among_them(tmp_path, monkeypatch):
    monkeypatch.setattr("exptilt.disk._WHOLE", 256)
    monkeypatch.setattr("exptilt.disk._BLOCK", 32)
    path = save_checkpoint(tmp_path, 1, {"w": torch.zeros(1000)}, keep=5)
    shard = path / "__0_0.distcp"
    content = shard.read_bytes()
    for place in (0, len(content) - 1):
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not is_complete(path)
    shard.write_bytes(content)
    assert is_complete(path)


def test_tensors_that_do_not_fit_are_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, STATE, keep=5)
    with pytest.raises(CheckpointError, match=r"Size mismatch .* for model/w|model/w"):
        load_checkpoint(path, lambda _name, _shape, dtype: torch.empty(5, dtype=dtype))
