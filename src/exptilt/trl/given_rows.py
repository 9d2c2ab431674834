"""Rows as a program gives them to a trainer, with the columns that TRL reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exptilt.data.read.rows_in_memory import rows_in_memory
from exptilt.errors import DataError
from exptilt.in_memory import InMemory

_PAIRS = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
_READ: Mapping[str, tuple[str, ...]] = {
    "DPO": _PAIRS,
    "ORPO": _PAIRS,
    "CPO": _PAIRS,
    "Reward": (*_PAIRS, "margin"),
    "KTO": (*_PAIRS, "completion", "label"),
    "SFT": ("text", "messages", "prompt", "completion", "tools", "chat_template_kwargs"),
}
"""Columns that TRL 1.16 reads, by trainer; it leaves out all others without a word."""
_IMAGES = ("image", "images")


@dataclass(frozen=True)
class GivenRows:
    """Rows under a name for a recipe."""

    path: str
    """The name in memory, or the path or hub id that was given."""
    held: InMemory | None = None
    count: int | None = None
    """Number of rows; None where only reading would tell."""
    left_out: tuple[str, ...] = ()
    """Columns that TRL does not read either."""


def given_rows(
    rows: Any,
    kind: str,
    what: str,
    *,
    more: Collection[str] = (),
    made_text: Callable[[Any], Any] | None = None,
) -> GivenRows:
    """Take rows for a recipe: a `datasets.Dataset`, rows that are mappings, a table of pandas, a path or a hub id.

    Args:
        rows: the rows.
        kind: trainer by the begin of its name, which says which columns count.
        what: what they are called in messages, `train_dataset`.
        more: names of columns that count besides: that of text of `SFTTrainer`, those a recipe gives other names.
        made_text: makes a row's text, of `SFTTrainer`.

    Raises:
        DataError: they are something else, or hold images.
    """
    if isinstance(rows, str) or hasattr(rows, "__fspath__"):
        return GivenRows(str(rows))
    if isinstance(rows, Mapping):
        rows = _one_of(rows, what)
    if made_text is not None:
        rows = _made(rows, made_text)
    rows, names = _with_names(rows, what)
    if any(name in names for name in _IMAGES):
        raise DataError(f"{what}: holds images; text is trained here, and masks by `exptilt train` with `segmenter:`")
    kept = [name for name in names if name in (*_READ[kind], *more)]
    if kept and len(kept) < len(names):
        rows = _only(rows, kept)
    held = rows_in_memory(rows, what.replace("_dataset", "_rows"))
    return GivenRows(held.name, held, len(held.content), tuple(name for name in names if name not in kept))


def _one_of(rows: Mapping[Any, Any], what: str) -> Any:
    """The data set that is meant of a DatasetDict, or of several by name: the only one, or for training the split `train`."""
    if not any(hasattr(part, "column_names") or _holds_rows(part) for part in rows.values()):
        raise DataError(f"{what}: a mapping of columns is no list of rows; give datasets.Dataset.from_dict(...)")
    wanted = "train" if what.startswith("train") and "train" in rows else next(iter(rows))
    if len(rows) > 1 and wanted != "train":
        raise DataError(f"{what}: several data sets by name ({', '.join(map(str, rows))}); give one of them")
    return rows[wanted]


def _holds_rows(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], Mapping)


def _made(rows: Iterable[Any], made_text: Callable[[Any], Any]) -> list[dict[str, str]]:
    """One row for every text; a function may give several of one row."""
    texts = (made_text(row) for row in rows)
    return [{"text": str(text)} for made in texts for text in (made if isinstance(made, list | tuple) else (made,))]


def _with_names(rows: Any, what: str) -> tuple[Any, list[str]]:
    """The rows, which may be read again, and the names of their columns."""
    if hasattr(rows, "num_rows") or hasattr(rows, "columns"):
        return rows, list(rows.column_names if hasattr(rows, "column_names") else rows.columns)
    try:
        listed = list(rows)
    except TypeError:
        raise DataError(
            f"{what}: a {type(rows).__name__} holds no rows; give a datasets.Dataset or a list of mappings"
        ) from None
    names = dict.fromkeys(name for row in listed if isinstance(row, Mapping) for name in row)
    return listed, list(names)


def _only(rows: Any, kept: list[str]) -> Any:
    if hasattr(rows, "select_columns"):
        return rows.select_columns(kept)
    if hasattr(rows, "columns"):
        return rows[kept]
    return [{name: row[name] for name in kept if name in row} if isinstance(row, Mapping) else row for row in rows]
