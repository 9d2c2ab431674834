"""The choice of the checkpoint to continue from: the newest whole one, with a reason for every newer one passed over.

Nothing here deletes. A checkpoint that cannot be read today may be readable tomorrow, so a checkpoint in the way is
renamed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from exptilt.disk import describe, reason, refusals
from exptilt.errors import CheckpointError

PREFIX = "step-"
_NAME = re.compile(r"step-\d+")
_ASIDE = "aside-"


@dataclass(frozen=True)
class Choice:
    """The checkpoint to continue from."""

    taken: Path | None
    """None where there is no checkpoint at all."""
    passed_over: tuple[tuple[Path, str], ...] = ()
    """Newer ones, newest first, each with why it cannot be taken."""

    def in_words(self) -> str | None:
        """A sentence for people about the checkpoints that were passed over."""
        if self.taken is None or not self.passed_over:
            return None
        others = ", ".join(f"{path.name} ({why})" for path, why in self.passed_over)
        return f"{self.taken}: the run goes on from this checkpoint; newer ones cannot be used: {others}"


def choose_checkpoint(folder: Path) -> Choice:
    """Choose the newest whole checkpoint of a `checkpoints` folder, with the reasons against newer ones.

    Raises:
        CheckpointError: there are checkpoints and none can be read, or the folder cannot be listed.
    """
    passed_over: list[tuple[Path, str]] = []
    for candidate in list_checkpoints(folder):
        why = fault_of(candidate)
        if why is None:
            return Choice(candidate, tuple(passed_over))
        passed_over.append((candidate, why))
    if passed_over:
        (newest, why), more = passed_over[0], len(passed_over) - 1
        raise CheckpointError(
            f"{newest}: cannot be read ({why}){f', nor can {more} older' if more else ''}; all are left as they are. Mend "
            "the disk or the files and run again, set another output, or set train.resume=never to move them aside and "
            "start anew"
        )
    return Choice(None)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, newest first.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be listed ({reason(error)}), so nobody knows what to go on from; mend that and run again, "
            "or set another output"
        ) from error
    return [folder / name for name in sorted(names, key=step_of, reverse=True)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None if there is none; see `choose_checkpoint`."""
    return choose_checkpoint(folder).taken


def step_of(name: str) -> int:
    """The step in a checkpoint's name.

    Example:
        >>> step_of("step-00000040")
        40
    """
    return int(name.removeprefix(PREFIX))


def fault_of(checkpoint: Path) -> str | None:
    """The reason why a checkpoint cannot be used; None if every file has the size and digest of its manifest."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, promised in files.items():
            content = describe(checkpoint / name)
            if content["bytes"] != promised["bytes"]:
                return f"{name} has {content['bytes']} bytes instead of {promised['bytes']}"
            if content != promised:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name}: {reason(error)}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is damaged"
    return None


def is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint can be used."""
    return fault_of(checkpoint) is None


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename checkpoints past `step`, so that they neither count nor block new ones.

    Returns:
        Their new paths.

    Raises:
        DiskError: a checkpoint cannot be renamed.
    """
    moved = []
    for later in list_checkpoints(folder):
        if step_of(later.name) > step:
            moved.append(set_aside(later))
    return moved


def set_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint to a free name that no longer counts as a checkpoint."""
    names = (f"{_ASIDE}{checkpoint.name}{more}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
    target = next(target for name in names if not (target := checkpoint.with_name(name)).exists())
    with refusals(checkpoint, "moved aside"):
        return checkpoint.rename(target)
