"""Rows of images and masks, as a manifest or a folder says them: paths and labels, no pixel is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.errors import DataError
from exptilt.kinds import COMPLETION, LIST, PAIR, UNPAIRED, Kind
from exptilt.labels import Desirable, Label, Preferred, Ranked
from exptilt.wording import SURE, nearest

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".npz")
_KNOWN = (
    *("id", "image", "chosen", "rejected", "masks", "ranks", "mask", "label", "target"),
    *("weight", "p_chosen", "annotator", "round", "meta"),
)
_GOOD, _BAD = (True, 1, "good", "desirable", "accept"), (False, 0, "bad", "undesirable", "reject")


@dataclass(frozen=True)
class MaskRow:
    """One image with its masks, as files."""

    where: str
    """File and line, for messages to people."""
    image: Path
    masks: tuple[Path, ...]
    label: Label | None
    """None where the mask is to be imitated."""
    target: Path | None = None
    """The true mask, for evaluation only."""
    weight: float = 1.0
    annotator: str | None = None


@dataclass(frozen=True)
class Refused:
    """A row that cannot be used, and why."""

    where: str
    error: RowError


def read_rows(source: str, kind: Kind, limit: int | None = None) -> list[MaskRow | Refused]:
    """Rows of a manifest or a folder, of the kind that a loss takes.

    A pair may be imitated by its chosen mask, and is two marks, good and bad; other kinds are not guessed.

    Raises:
        DataError: there is nothing to read, or rows of another kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        named: Iterator[tuple[str, Mapping[str, Any] | RowError]] = _of_folder(path)
        base = Path()
    elif path.suffix == ".jsonl" and path.is_file():
        named, base = _of_manifest(path), path.parent
    else:
        raise DataError(f"data: {path}: no manifest (.jsonl) and no folder of images and masks")
    rows: list[MaskRow | Refused] = []
    for number, (where, content) in enumerate(named):
        if limit is not None and number >= limit:
            break
        try:
            if isinstance(content, RowError):
                raise content
            rows += _rows_of(content, where, base, kind)
        except RowError as error:
            rows.append(Refused(where, error))
    if not rows:
        raise DataError(f"data: {path}: holds no row")
    return rows


def read_held_out(source: str, kind: Kind) -> list[MaskRow | Refused]:
    """Rows to measure on: of the kind that a loss takes, or images with nothing but their true masks.

    Raises:
        DataError: there is nothing to read.
    """
    rows = read_rows(source, kind)
    if all(isinstance(row, Refused) and row.error.code == "missing_column" for row in rows):
        with_targets = [row for row in read_rows(source, COMPLETION) if isinstance(row, MaskRow)]
        if len(with_targets) == len(rows):
            return [replace(row, target=row.target or row.masks[0]) for row in with_targets]
    return rows


def read_images(source: str, limit: int | None = None) -> list[MaskRow | Refused]:
    """Images, each with its true mask (`target`, or `mask`) where there is one; a folder of images is enough.

    Raises:
        DataError: there is nothing to read.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "images").is_dir():
        rows: list[MaskRow | Refused] = [MaskRow(image.name, image, (), None) for image in _by_stem(path).values()]
    elif path.is_dir():
        true = {**(_by_stem(path / "masks") if (path / "masks").is_dir() else {})}
        true |= _by_stem(path / "targets") if (path / "targets").is_dir() else {}
        images = _by_stem(path / "images").items()
        rows = [MaskRow(f"images/{image.name}", image, (), None, true.get(stem)) for stem, image in images]
    elif path.suffix == ".jsonl" and path.is_file():
        rows = [_image_of(where, content, path.parent) for where, content in _of_manifest(path)]
    else:
        raise DataError(f"images: {path}: no manifest (.jsonl) and no folder of images")
    if not rows:
        raise DataError(f"images: {path}: holds no image")
    return rows[:limit]


def _image_of(where: str, content: Mapping[str, Any] | RowError, base: Path) -> MaskRow | Refused:
    try:
        if isinstance(content, RowError):
            raise content
        true = content.get("target") or content.get("mask")
        return MaskRow(where, base / _text(content, "image"), (), None, None if true is None else base / str(true))
    except RowError as error:
        return Refused(where, error)


def _of_manifest(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | RowError]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                content = json.loads(line)
            except ValueError as error:
                yield where, RowError("invalid_json", f"not valid JSON ({error})")
                continue
            yield where, content if isinstance(content, dict) else RowError("not_an_object", "the row is not an object")


def _of_folder(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | RowError]]:
    """`images` beside `chosen` and `rejected`, or beside `masks`; files of one name belong together."""
    folders = [name for name in ("chosen", "rejected", "masks") if (path / name).is_dir()]
    if not (path / "images").is_dir() or folders not in (["chosen", "rejected"], ["masks"]):
        raise DataError(f"data: {path}: a folder holds `images` and either `chosen` and `rejected`, or `masks`")
    targets = _by_stem(path / "targets") if (path / "targets").is_dir() else {}
    files = {name: _by_stem(path / name) for name in folders}
    for stem, image in sorted(_by_stem(path / "images").items()):
        missing = [name for name in folders if stem not in files[name]]
        if missing:
            yield f"images/{image.name}", RowError("missing_column", f"there is no {missing[0]}/{stem}.*")
            continue
        row = {
            "image": str(image),
            **{("mask" if name == "masks" else name): str(files[name][stem]) for name in folders},
        }
        yield f"images/{image.name}", row | ({"target": str(targets[stem])} if stem in targets else {})


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGES}


def _rows_of(content: Mapping[str, Any], where: str, base: Path, kind: Kind) -> list[MaskRow]:
    unknown = [key for key in content if key not in _KNOWN]
    if unknown:
        near = nearest(unknown[0], _KNOWN, SURE)
        hint = f"; did you mean {near!r}?" if near else f" (known: {', '.join(_KNOWN)}; others go into `meta`)"
        raise RowError("bad_value", f"unknown key {unknown[0]!r}{hint}")

    def file(key: str) -> Path:
        return base / _text(content, key)

    common: dict[str, Any] = {
        "image": file("image"),
        "target": file("target") if content.get("target") is not None else None,
        "weight": _number(content, "weight", 1.0, 0.0, float("inf")),
        "annotator": None if content.get("annotator") is None else str(content["annotator"]),
    }
    made = _MAKERS[kind](content, file, base)
    return [MaskRow(where=where, masks=masks, label=label, **common) for masks, label in made]


Made = list[tuple[tuple[Path, ...], Label | None]]


def _pairs(content: Mapping[str, Any], file: Callable[[str], Path], base: Path) -> Made:
    if "masks" in content:
        raise RowError("missing_column", "a ranking of masks; losses on pairs need `chosen` and `rejected`")
    return [((file("chosen"), file("rejected")), Preferred(_belief(content)))]


def _imitated(content: Mapping[str, Any], file: Callable[[str], Path], base: Path) -> Made:
    if content.get("label") in _BAD and content.get("label") is not None:
        raise RowError("unjudged", "the mask is marked as bad, and this loss imitates masks")
    if content.get("masks") is not None and content.get("mask") is None:
        ((masks, label),) = _ranked(content, file, base)
        return [((masks[min(range(len(masks)), key=label.ranks.__getitem__)],), None)]  # type: ignore[union-attr]
    if content.get("mask") is None and content.get("chosen") is not None:
        return [((_better_first(content, file)[0],), None)]
    return [((file("mask" if content.get("mask") is not None or content.get("target") is None else "target"),), None)]


def _marked(content: Mapping[str, Any], file: Callable[[str], Path], base: Path) -> Made:
    if "chosen" in content:
        if _belief(content) == 0.5:
            raise RowError("unjudged", "a tie, which marks neither mask as good or bad; leave the row out")
        good, bad = _better_first(content, file)
        return [((good,), Desirable(True)), ((bad,), Desirable(False))]
    label = content.get("label")
    if label not in (*_GOOD, *_BAD) or label is None:
        raise RowError("bad_value", f"label must be true (good) or false (bad), got {label!r}")
    return [((file("mask"),), Desirable(label in _GOOD))]


def _ranked(content: Mapping[str, Any], file: Callable[[str], Path], base: Path) -> Made:
    masks = content.get("masks")
    if masks is None and "chosen" in content:
        return [(_better_first(content, file), Ranked((1, 1) if _belief(content) == 0.5 else (1, 2)))]
    if not isinstance(masks, Sequence) or isinstance(masks, str) or len(masks) < 2:
        raise RowError("missing_column", "a ranking has `masks`, a list of two or more, the best first")
    if not all(isinstance(mask, str) and mask for mask in masks):
        raise RowError("wrong_type", f"masks must be paths of files, got {masks!r}")
    ranks = content.get("ranks", list(range(1, len(masks) + 1)))
    if not isinstance(ranks, list) or len(ranks) != len(masks) or not all(type(rank) is int for rank in ranks):
        raise RowError("bad_value", f"ranks must be {len(masks)} whole numbers, 1 for the best, got {ranks!r}")
    return [(tuple(base / mask for mask in masks), Ranked(tuple(ranks)))]


def _belief(content: Mapping[str, Any]) -> float:
    """Probability that `chosen` is the better one."""
    return _number(content, "p_chosen", 1.0, 0.0, 1.0)


def _better_first(content: Mapping[str, Any], file: Callable[[str], Path]) -> tuple[Path, Path]:
    sides = (file("chosen"), file("rejected"))
    return sides if _belief(content) >= 0.5 else (sides[1], sides[0])


_MAKERS: Mapping[Kind, Callable[[Mapping[str, Any], Callable[[str], Path], Path], Made]] = {
    PAIR: _pairs,
    COMPLETION: _imitated,
    UNPAIRED: _marked,
    LIST: _ranked,
}


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if value is None:
        raise RowError("missing_column", f"the row has no {key!r}")
    if not isinstance(value, str) or not value:
        raise RowError("wrong_type", f"{key!r} must be the path of a file, got {value!r}")
    return value


def _number(content: Mapping[str, Any], key: str, default: float, least: float, most: float) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RowError("bad_value", f"{key} must be a number from {least:g} to {most:g}, got {value!r}")
    return float(value)
