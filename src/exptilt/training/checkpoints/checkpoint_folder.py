"""Checkpoints that are complete or do not exist, of one process or of many.

A checkpoint is a folder `checkpoints/step-00000040`:

    *.distcp, .metadata      the tensors, through torch's distributed checkpoint: readable by any number of processes
    state.pt                 everything else that all processes have in common
    process-00000.pt, ...    what each process has for itself: the state of its random generators
    manifest.json            size and digest of every file

It is written under a temporary name, flushed to disk, and renamed at the very end, when every process has reported that
its files are written. `choice` decides which checkpoint a run continues from. All processes, on however many machines, must
see one folder. Read only checkpoints you trust: torch's `.metadata` is a pickle.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from exptilt.disk import describe, flush, has_size, reason, require_space, write
from exptilt.errors import CheckpointError, DiskError
from exptilt.processes.world import World
from exptilt.training.checkpoints.choice import (
    PREFIX,
    Choice,
    choose_checkpoint,
    list_checkpoints,
    set_aside,
    set_aside_after,
)
from exptilt.training.checkpoints.shards import ShardWriter, lift

_FAULTS = (OSError, RuntimeError, ValueError)


@dataclass
class Checkpoints:
    """The checkpoints of a run: written atomically by all its processes together, in the background if wanted."""

    folder: Path
    keep: int = 2
    """Number of checkpoints to keep, >= 1."""
    world: World = field(default_factory=World.alone)
    in_background: bool = False
    """Copy the state and write it while training goes on; at most one is in flight."""
    _saving: _Saving | None = field(default=None, init=False)

    def save(self, step: int, state: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> None:
        """Write one checkpoint, then remove the oldest beyond `keep`; all processes call it at the same step.

        In the background only the copy is made here: the checkpoint exists once `settle` has been called.

        Args:
            step: optimizer steps done.
            state: nested dicts and lists of tensors, numbers and strings, the same in all processes but for the shards.
            own: state of this process alone.

        Raises:
            CheckpointError: the disk refuses, here or in another process; earlier checkpoints are untouched.
        """
        self.settle()
        saving = _Saving(self.folder, step, self.world)
        saving.prepare(state, own or {}, copy=self.in_background)
        self._saving = saving
        if self.in_background:
            saving.start()
        else:
            saving.write()
            self.settle()

    @property
    def is_writing(self) -> bool:
        """Tell whether this process still writes in the background."""
        return self._saving is not None and self._saving.is_writing

    def settle(self) -> None:
        """Wait until files are written, and make them a checkpoint; all processes call it at the same step.

        Raises:
            CheckpointError: the checkpoint could not be written, here or in another process.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.commit(self.keep)

    def abandon(self) -> None:
        """Wait until nothing is being written; an unfinished checkpoint is dropped."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def choose(self) -> Choice:
        """Choose the checkpoint to continue from: process 0 looks, and all processes get its answer.

        Raises:
            CheckpointError: there are checkpoints and none can be read.
        """
        choice = self.world.first_alone(lambda: choose_checkpoint(self.folder))
        return self.world.first(choice or Choice(None))

    def set_aside_after(self, step: int) -> list[Path]:
        """Rename checkpoints past `step`, once; see `choice.set_aside_after`."""
        moved = self.world.first_alone(lambda: set_aside_after(self.folder, step))
        return self.world.first(moved or [])

    def require_space(self, size: float, saves: int) -> None:
        """Refuse to begin if the disk lacks the space.

        Args:
            size: bytes of one checkpoint.
            saves: number of checkpoints to write; at most `keep` and the newest exist at one time.

        Raises:
            DiskError: there is less free space.
        """

        def look() -> None:
            present = len(list_checkpoints(self.folder))
            num = max(1, min(saves, self.keep + 1 - present)) if saves else 0
            require_space(self.folder, num * size, f"{num} checkpoints of the run")

        self.world.first_alone(look)


@contextmanager
def finishing(checkpoints: Checkpoints) -> Iterator[None]:
    """Settle unfinished writes at the end; also after an error, if no other process has to agree."""
    try:
        yield
    except BaseException:
        if checkpoints.world.size == 1:
            with suppress(CheckpointError, DiskError):  # the error on its way says more
                checkpoints.settle()
        checkpoints.abandon()
        raise
    checkpoints.settle()


@dataclass
class _Saving:
    """A checkpoint that is being written: prepared by all, written by each, committed by process 0."""

    folder: Path
    step: int
    world: World
    thread: threading.Thread | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    written: list[Any] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    temporary: Path = field(init=False)
    shards: ShardWriter = field(init=False)

    @property
    def final(self) -> Path:
        return self.folder / f"{PREFIX}{self.step:08d}"

    @property
    def is_writing(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def prepare(self, state: Mapping[str, Any], own: Mapping[str, Any], copy: bool) -> None:
        """Make the temporary folder, and agree on the files that each process writes."""
        bare, tensors = lift(state)
        self.files[f"process-{self.world.rank:05d}.pt"] = _pickled(own)
        if self.world.is_first:
            self.files["state.pt"] = _pickled(bare)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        folder = self.world.first_alone(lambda: self._make_folder(size))
        self.temporary = self.world.first(folder or Path())
        self.shards = ShardWriter(self.temporary, tensors, self.world)
        self.shards.plan(copy)

    def start(self) -> None:
        self.thread = threading.Thread(target=self.write, name="checkpoint", daemon=True)
        self.thread.start()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def write(self) -> None:
        """Write and flush this process's files; an error is stored, so that all processes learn of it."""
        try:
            self.written = self.shards.write()
            for name, content in self.files.items():
                write(self.temporary / name, content)
            names = [*self.files, *dict.fromkeys(result.storage_data.relative_path for result in self.written)]
            self.described = {name: describe(self.temporary / name) for name in names}
        except _FAULTS as error:
            why = reason(error, self.temporary)
            self.error = f"process {self.world.rank}: {why}" if self.world.size > 1 else why
        self.files = {}

    def commit(self, keep: int) -> None:
        """Write the manifest, rename and prune, when every process has written."""
        self.join()
        everyone = self.world.gather((self.written, self.described, self.error))
        errors = [error for _, _, error in everyone if error is not None]
        described = {name: what for _, some, _ in everyone for name, what in some.items()}
        self.world.first_alone(lambda: self._finish([results for results, _, _ in everyone], described, errors, keep))

    def _make_folder(self, size: int) -> Path:
        temporary = self.folder / f".writing-{self.final.name}-{os.getpid()}"
        try:
            require_space(self.folder, size, "the tensors of this checkpoint")
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except (OSError, DiskError) as error:
            raise self._failed(error) from error
        return temporary

    def _finish(self, results: list[Any], described: dict[str, Any], errors: list[str], keep: int) -> None:
        try:
            if errors:
                raise OSError("; ".join(errors))
            unseen = [name for name, what in described.items() if not has_size(self.temporary / name, what["bytes"])]
            if unseen:
                raise OSError(f"process 0 does not see {unseen[0]}; all processes must write into one shared folder")
            self.shards.finish(results)
            described[".metadata"] = describe(self.temporary / ".metadata")
            manifest = {"step": self.step, "processes": self.world.size, "files": described}
            write(self.temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
            flush(self.temporary)
            if self.final.exists():
                set_aside(self.final)
            os.replace(self.temporary, self.final)
            flush(self.folder)
        except (*_FAULTS, DiskError) as error:
            shutil.rmtree(self.temporary, ignore_errors=True)
            raise self._failed(error) from error
        _prune(self.folder, keep)

    def _failed(self, error: Exception) -> CheckpointError:
        why = reason(error, self.folder)
        return CheckpointError(f"{self.final}: could not be written ({why}); earlier checkpoints are intact")


def _pickled(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def _prune(folder: Path, keep: int) -> None:
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)  # the rest is tried again with the next checkpoint
    for abandoned in folder.glob(".writing-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
