"""`exptilt pair`: samples or votes to a file of preferences, rankings or ratings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.disk import refusals, write_lines
from exptilt.errors import ConfigError, DataError
from exptilt.runs.paired_rows import paired_rows
from exptilt.settings.load import load
from exptilt.settings.pair_settings import PairRequest
from exptilt.wording import counted

_SQLITE = b"SQLite format 3\x00"


def pair_request(words: Sequence[str], output: Path | None = None) -> PairRequest:
    """The request that a command line states.

    Args:
        words: folders and files of samples, stores of votes, and `key=value`.
        output: the file, instead of `output=`.

    Raises:
        ConfigError: a setting is wrong or missing, or several stores are named.
    """
    names = [word for word in words if "://" in word or "=" not in word]
    settings = [word for word in words if word not in names]
    stores = [name for name in names if is_store(name)]
    if len(stores) > 1:
        raise ConfigError(f"{stores[1]}: is a second store of votes beside {stores[0]}; name one")
    samples = [name for name in names if name not in stores]
    stated = [f"samples={json.dumps(samples)}"] if samples else []
    stated += [f"votes.store={json.dumps(stores[0])}"] if stores else []
    stated += [] if output is None else [f"output={json.dumps(str(output))}"]
    return load(PairRequest, None, [*stated, *settings])


def is_store(name: str) -> bool:
    """Whether a name is a database's: a URL, a file named like one, or one that SQLite wrote."""
    path = Path(name).expanduser()
    if "://" in name or path.suffix in (".db", ".sqlite", ".sqlite3"):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def pair(request: PairRequest) -> Path:
    """Write the rows that the request asks for, and say what was left out.

    Returns:
        The file.

    Raises:
        ExptiltError: samples, reward or votes cannot be used, nothing is preferred, or the file is there already.
    """
    output = Path(request.output).expanduser()
    if output.exists():
        raise ConfigError(f"{output}: is there already and is not replaced; name another output")
    paired = paired_rows(request)
    for reason, count in paired.left_out.items():
        print(f"left out: {count:,} with {reason}")
    for note in paired.notes:
        print(f"note: {note}")
    if not paired.rows:
        raise DataError(f"{paired.source}: nothing is preferred, so no file was written")
    _require_masks(paired.rows, output)
    with refusals(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_lines(output, paired.rows)
    asked = "prompt" if request.votes is None else "comparison"
    print(f"{counted(len(paired.rows), 'row')} of {counted(paired.num_asked, asked)}: {output}")
    return output


def _require_masks(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Refuse a place from which the paths of masks, which people were shown by, lead nowhere."""
    missing = next(
        (row["image"] for row in rows if "image" in row and not (output.parent / row["image"]).is_file()), None
    )
    if missing is not None:
        raise ConfigError(
            f"{output}: {missing} is not in its folder; paths of images and masks are relative to the file that people were shown, "
            "so write the rows beside it, e.g. --output candidates/pairs.jsonl"
        )
