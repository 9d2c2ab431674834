"""Checkpoints that are complete or do not exist, of one process or of many.

A checkpoint is a folder `checkpoints/step-00000040`:

    *.distcp, .metadata      the tensors, through torch's distributed checkpoint: readable by any number of processes
    state.pt                 everything else that all processes have in common
    process-00000.pt, ...    what each process has for itself: the state of its random generators
    manifest.json            size and digest of every file

It is written under a temporary name, flushed to disk, and renamed as the last act, when every process has said that its
files are written; a damaged one is passed over in favour of the one before. All processes, on however many machines, must
see one folder. Read only checkpoints you trust: torch's `.metadata` is a pickle.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exptilt.disk import describe, flush, has_size, write
from exptilt.errors import CheckpointError
from exptilt.processes.world import World
from exptilt.training.checkpoints.shards import ShardWriter, lift, put_back, read_shards

Target = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Name, shape and dtype of a saved tensor -> the tensor to read it into."""

_PREFIX = "step-"
_FAULTS = (OSError, RuntimeError, ValueError)


@dataclass
class Checkpoints:
    """The checkpoints of a run: written atomically by all its processes together, in the background if wanted."""

    folder: Path
    keep: int = 2
    """How many to keep, >= 1."""
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
            own: what this process keeps for itself.

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
        """Whether this process still writes in the background."""
        return self._saving is not None and self._saving.is_writing

    def settle(self) -> None:
        """Wait for what is being written, and make it a checkpoint; all processes call it at the same step.

        Raises:
            CheckpointError: it could not be written, here or in another process.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.commit(self.keep)

    def abandon(self) -> None:
        """Wait until nothing is written any more; what was in flight becomes no checkpoint."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None: process 0 looks, all get its answer."""
        return self.world.first(newest_checkpoint(self.folder) if self.world.is_first else None)

    def discard_after(self, step: int) -> None:
        """Remove what lies past `step`, once; see `discard_after`."""
        if self.world.is_first:
            discard_after(self.folder, step)


@contextmanager
def finishing(checkpoints: Checkpoints) -> Iterator[None]:
    """Settle what is still being written at the end; after an error too, where no other process has to agree."""
    try:
        yield
    except BaseException:
        if checkpoints.world.size == 1:
            with suppress(CheckpointError):  # the error on its way says more
                checkpoints.settle()
        checkpoints.abandon()
        raise
    checkpoints.settle()


@dataclass
class _Saving:
    """One checkpoint on its way to disk: prepared by all, written by each, committed by process 0."""

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
        return self.folder / f"{_PREFIX}{self.step:08d}"

    @property
    def is_writing(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def prepare(self, state: Mapping[str, Any], own: Mapping[str, Any], copy: bool) -> None:
        """Make the temporary folder, agree on who writes what."""
        bare, tensors = lift(state)
        self.files[f"process-{self.world.rank:05d}.pt"] = _pickled(own)
        if self.world.is_first:
            self.files["state.pt"] = _pickled(bare)
        made = self.world.first_alone(self._make_folder)
        self.temporary = self.world.first(made or Path())
        self.shards = ShardWriter(self.temporary, tensors, self.world)
        self.shards.plan(copy)

    def start(self) -> None:
        self.thread = threading.Thread(target=self.write, name="checkpoint", daemon=True)
        self.thread.start()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def write(self) -> None:
        """Write and flush this process's files; what goes wrong is kept for all to hear."""
        try:
            self.written = self.shards.write()
            for name, content in self.files.items():
                write(self.temporary / name, content)
            names = [*self.files, *dict.fromkeys(result.storage_data.relative_path for result in self.written)]
            self.described = {name: describe(self.temporary / name) for name in names}
        except _FAULTS as error:
            self.error = f"process {self.world.rank}: {error}" if self.world.size > 1 else str(error)
        self.files = {}

    def commit(self, keep: int) -> None:
        """Once every process has written: manifest, rename, prune."""
        self.join()
        everyone = self.world.gather((self.written, self.described, self.error))
        errors = [error for _, _, error in everyone if error is not None]
        described = {name: what for _, some, _ in everyone for name, what in some.items()}
        self.world.first_alone(lambda: self._finish([results for results, _, _ in everyone], described, errors, keep))

    def _make_folder(self) -> Path:
        temporary = self.folder / f".writing-{self.final.name}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except OSError as error:
            raise self._failed(str(error)) from error
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
            if self.final.exists():  # a damaged one of the same step, passed over on resume
                shutil.rmtree(self.final)
            os.replace(self.temporary, self.final)
            flush(self.folder)
        except _FAULTS as error:
            shutil.rmtree(self.temporary, ignore_errors=True)
            raise self._failed(str(error)) from error
        _prune(self.folder, keep)

    def _failed(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.final}: could not be written ({why}); earlier checkpoints are intact")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a `checkpoints` folder, or None."""
    for candidate in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        if is_complete(candidate):
            return candidate
    return None


def discard_after(folder: Path, step: int) -> None:
    """Remove what lies past `step`: damaged checkpoints, and those of a run that is started anew."""
    for later in folder.glob(f"{_PREFIX}*"):
        if later.name > f"{_PREFIX}{step:08d}":
            shutil.rmtree(later)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint has the size and digest its manifest promises."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text())["files"]
        return all(describe(checkpoint / name) == description for name, description in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_checkpoint(checkpoint: Path, target: Target | None = None) -> dict[str, Any]:
    """Read a checkpoint's state, as `Checkpoints.save` was given it.

    Args:
        checkpoint: one that `newest_checkpoint` or `is_complete` has looked at.
        target: where each tensor goes; default: a new one on the CPU, whole.

    Raises:
        CheckpointError: it cannot be read, or its tensors do not fit.
    """
    bare = load_bare(checkpoint)
    try:
        tensors = read_shards(checkpoint, target or (lambda _name, shape, dtype: torch.empty(shape, dtype=dtype)))
    except (*_FAULTS, EOFError) as error:
        raise CheckpointError(f"{checkpoint}: its tensors cannot be read ({error})") from error
    state: dict[str, Any] = put_back(bare, tensors)
    return state


def load_bare(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's state without its tensors: little to read, enough to see whether it fits.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        bare: dict[str, Any] = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    except (*_FAULTS, EOFError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be read ({error})") from error
    return bare


def load_own(checkpoint: Path, rank: int) -> dict[str, Any] | None:
    """What process `rank` kept for itself; None if there were not so many processes."""
    path = checkpoint / f"process-{rank:05d}.pt"
    if not path.exists():
        return None
    own: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return own


def _pickled(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def _prune(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # what stays is tried again with the next one
    for abandoned in folder.glob(".writing-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
