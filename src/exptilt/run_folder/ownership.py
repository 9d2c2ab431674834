"""Which folders may be written into: those that are new, empty or exptilt's own, and lie apart from everything precious.

A folder of ours holds `.exptilt-owner.json`, which says what the folder is: a run, a study, an evaluation, a demo, samples, win rates.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from exptilt.disk import reason, write_whole
from exptilt.errors import CheckpointError

Kind = Literal["run", "study", "evaluation", "demo", "samples", "judged"]

_CALLED: dict[Kind, str] = {
    "run": "a run",
    "study": "a study",
    "evaluation": "an evaluation",
    "demo": "a demo",
    "samples": "samples",
    "judged": "win rates",
}

OWNER_FILE = ".exptilt-owner.json"
LOCK_FILE = ".exptilt-lock"
_NOBODYS = frozenset(
    {OWNER_FILE, LOCK_FILE, ".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".gitignore", "lost+found"}
)
"""Names that do not make a folder somebody's."""


def require_apart(output: Path, inputs: Mapping[str, str], key: str = "output") -> None:
    """Refuse an output that is, holds or lies in something the user needs.

    Compared by what the file system says the folders are, so that no link, `..`, letter case or mount hides an overlap.

    Args:
        output: a folder or file that will be written.
        inputs: paths that are read, by what names them (`model.path`); hub ids and what does not exist count for nothing.
        key: what names the output.

    Raises:
        CheckpointError: what overlaps with what.
    """
    for place, path in (("the working directory", Path.cwd()), ("your home folder", _home())):
        if path is not None and _holds(output, path):
            raise CheckpointError(f"{output}: {key} is or holds {place}; name a new folder of its own, e.g. runs/first")
    for name, text in inputs.items():
        for path in _local(text):
            if _holds(output, path):
                what = "is" if _holds(path, output) else "holds"
                raise CheckpointError(
                    f"{output}: {key} {what} {name}={text}, which would be replaced; set {key} to a new folder of its own"
                )
            if path.is_dir() and _holds(path, output):
                raise CheckpointError(
                    f"{output}: {key} lies inside {name}={text}; set {key} to a new folder outside of it"
                )


def require_no_file(folder: Path, key: str = "output") -> None:
    """Refuse a folder where a file, or a link that leads nowhere, has its name or that of a folder above it.

    Raises:
        CheckpointError: what is in the way.
    """
    for path in (folder, *folder.absolute().parents):
        if os.path.lexists(path):
            if not path.is_dir():
                more = "" if path == folder else f" ({path})"
                raise CheckpointError(
                    f"{folder}: {key} must be a folder, and a file is in its way{more}; set another {key}"
                )
            return


def require_ours(folder: Path, kind: Kind, key: str = "output") -> None:
    """Refuse a folder that holds what exptilt did not make, or made for another purpose.

    Raises:
        CheckpointError: what is there.
    """
    if not folder.exists():
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {reason(error)}; set another {key}") from None
    theirs = [name for name in names if name not in _NOBODYS]
    if not theirs:
        return
    owner = kind_of_folder(folder)
    if owner is None:
        more = f" and {len(theirs) - 1} more" if len(theirs) > 1 else ""
        raise CheckpointError(
            f"{folder}: holds files that exptilt did not make ({theirs[0]}{more}); set {key} to a new or empty folder"
        )
    if owner != kind:
        raise CheckpointError(f"{folder}: holds {_CALLED[owner]}, not {_CALLED[kind]}; set {key} to another folder")


def kind_of_folder(folder: Path) -> Kind | None:
    """What a folder of exptilt's is, by its owner's file or, where an earlier version made it, by its records."""
    owner = _json(folder / OWNER_FILE)
    if owner is not None and owner.get("kind") in _CALLED:
        kind: Kind = owner["kind"]
        return kind
    info, recipe = _json(folder / "run.json"), _yaml(folder / "config.yaml")
    if info is not None and recipe is not None and "output" in recipe:
        return "run"
    if info is not None and info.get("status") == "measured":
        return "evaluation"
    study = _yaml(folder / "frontier.yaml")
    return "study" if study is not None and "output" in study else None


def sign(folder: Path, kind: Kind) -> None:
    """Say in a folder whose it is, once.

    Raises:
        DiskError: it cannot be written.
    """
    if _json(folder / OWNER_FILE) is None:
        write_whole(folder / OWNER_FILE, json.dumps({"kind": kind, "made_by": f"exptilt {version('exptilt')}"}) + "\n")


def _holds(upper: Path, lower: Path) -> bool:
    """Whether `lower` is `upper` or lies below it, by either its own name or where its links lead."""
    try:
        top = os.stat(upper)
    except OSError:
        return False
    return any(_is(path, top) for path in _upward(lower))


def _upward(path: Path) -> Iterator[Path]:
    for start in dict.fromkeys((Path(os.path.realpath(path)), Path(os.path.abspath(path)))):
        yield start
        yield from start.parents


def _is(path: Path, top: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), top)
    except OSError:
        return False


def _local(text: str) -> list[Path]:
    """The files or folders that a path, a `~` or a pattern names; none for a hub id."""
    spellings = dict.fromkeys((Path(text), Path(os.path.expanduser(text))))
    found = [path for path in spellings if os.path.lexists(path)]
    if not found and glob.has_magic(text):
        found = [Path(name) for name in glob.glob(os.path.expanduser(text), recursive=True)]
    return found


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user without one
        return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _yaml(path: Path) -> dict[str, Any] | None:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
