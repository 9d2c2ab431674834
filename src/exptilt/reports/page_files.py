"""Pages as files: the templates they are rendered from, and nothing replaced that is no page of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exptilt.disk import refusals, write_whole
from exptilt.errors import CheckpointError, DiskError
from exptilt.reports.numbers import duration, estimate, factor, number, plain, prose, stacked, visible

_TITLE = re.compile(r": exptilt (data )?report</title>")
"""The title that identifies a page written by exptilt."""


def environment() -> Environment:
    """Jinja environment of this folder's templates: inserted values are escaped, and control characters spelled out."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            value if isinstance(value, Markup) or not isinstance(value, str) else visible(value, 100_000)
        ),
    )
    templates.filters |= {
        "number": number,
        "estimate": estimate,
        "plain": plain,
        "duration": duration,
        "prose": prose,
        "visible": visible,
        "factor": factor,
        "stacked": stacked,
        "heading": lambda text: text[:1].upper() + text[1:],
    }
    return templates


def write_files(files: Mapping[Path, str], option: str) -> None:
    """Write each file whole, after `require_reports` has accepted them.

    Args:
        files: texts by path.
        option: option of the command line that names another path.

    Raises:
        CheckpointError: a file cannot be written.
    """
    for path, text in files.items():
        try:
            with refusals(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except DiskError as error:
            raise CheckpointError(f"{error}; name another place for the report with {option}") from None


def require_reports(paths: Iterable[Path], option: str) -> None:
    """Refuse to write a report over a file that is no report.

    Args:
        paths: absent, empty, or pages and numbers that exptilt has written.
        option: option of the command line that names another path.

    Raises:
        CheckpointError: a file is in the way; the message names it.
    """
    for path in paths:
        if path.is_dir():
            raise CheckpointError(f"{path}: the report cannot be written: this is a folder; name a file with {option}")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise CheckpointError(
                f"{path}: the report cannot be written: a file is in its way; name another place with {option}"
            ) from None
        except (OSError, UnicodeDecodeError):
            text = "unreadable"
        if text and not _is_report(text):
            raise CheckpointError(
                f"{path}: is no report of exptilt and would be replaced; name another place with {option}"
            )


def _is_report(text: str) -> bool:
    if text.startswith("{"):
        try:
            return bool(json.loads(text).keys() >= {"title", "runs", "missing", "paired"})
        except ValueError:
            return False
    return _TITLE.search(text, 0, 100_000) is not None
