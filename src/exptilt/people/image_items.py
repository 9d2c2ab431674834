"""Rows with pictures: images in the prompt, and answers that are images or masks of one.

A picture is named by its path, relative to the file of rows, and must lie in that file's folder. The comparison holds the
paths, as the file has them; the page shows the pictures by item, never by path.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from exptilt.data.problems import RowError
from exptilt.data.read.places import is_on_hub, place_of
from exptilt.data.read.sources import read_rows
from exptilt.data.records import Text
from exptilt.preferences import Comparison

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_BROWSER_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_MASK_MODES = ("1", "L", "P", "I", "I;16")
_OF_CLASSES = ((255, 64, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (0, 158, 115), (86, 180, 233))
"""Colours of classes 1, 2, ... laid over an image; from the eighth on they come again."""
_THROUGH = 120
"""How much of a mask's colour covers its image, of 255."""
_DIFFERS = (255, 0, 255, 255)
"""Colour of the outline of what two masks differ in, RGBA."""
_PEEK = 16


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row with pictures."""

    comparison: Comparison
    sources: tuple[str, ...]
    folder: Path


def is_image(text: str) -> bool:
    """Whether an answer is the path of a picture.

    Example:
        >>> is_image("masks/a.png"), is_image("a.png is a file")
        (True, False)
    """
    return len(text) < 1000 and "\n" not in text and PurePath(text).suffix.lower() in SUFFIXES


def has_images(source: str) -> bool:
    """Whether one of the first rows of a local file holds a picture."""
    path = place_of(source)
    if path is None or not path.is_file() or is_on_hub(source):
        return False
    rows = [row for _, row in islice(read_rows(source), _PEEK) if not isinstance(row, RowError)]
    return any(row.get("image") or row.get("images") or any(is_image(a) for a in _answers(row)[0]) for row in rows)


def image_rows(source: str, left_out: Counter[str]) -> Iterator[ImageRow]:
    """Rows of a file with pictures: `prompt`, `image` or `images`, and `chosen` and `rejected`, `completions` or `masks`."""
    folder = Path(source).expanduser().resolve().parent
    for _, row in read_rows(source):
        if isinstance(row, RowError):
            left_out[row.code.replace("_", " ")] += 1
            continue
        answers, sources = _answers(row)
        pictures = _pictures(row)
        if pictures is None:
            left_out["pictures inside the file (write them beside it and name their paths)"] += 1
        elif len(answers) < 2:
            left_out["a single answer"] += 1
        elif not all(_path(folder, one) for one in (*pictures, *filter(is_image, answers))):
            left_out["a picture that is not in the folder of the file"] += 1
        else:
            yield ImageRow(Comparison(_with_pictures(row.get("prompt"), pictures), answers), sources, folder)


def shows_masks(comparison: Comparison) -> bool:
    """Whether all answers are pictures that are laid over an image of the prompt: masks."""
    pictures, answers = pictures_of(comparison), len(comparison.answers)
    return len(pictures) > answers and all(pictures[-answers:])


def pictures_of(comparison: Comparison) -> list[str]:
    """Paths of all pictures of a comparison: those of its prompt, then its sorted answers; "" where an answer is text."""
    shown = [] if isinstance(comparison.prompt, str) else [part for turn in comparison.prompt for part in _parts(turn)]
    inside = [str(part["image"]) for part in shown if part.get("type") == "image" and "image" in part]
    return inside + [answer if is_image(answer) else "" for answer in sorted(comparison.answers)]


def picture(folder: Path, name: str, *, as_mask: bool) -> tuple[bytes, str] | None:
    """A picture as bytes with its media type; None where it cannot be read.

    Args:
        folder: that the path must lie in.
        name: the path, relative to the folder.
        as_mask: colour the classes of a picture with one channel, and leave 0 transparent.
    """
    path = _path(folder, name)
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            if as_mask and image.mode in _MASK_MODES:
                return _encoded(_overlay(image)), "image/png"
            if image.format in _BROWSER_FORMATS:
                return path.read_bytes(), _BROWSER_FORMATS[image.format]
            return _encoded(image.convert("RGB")), "image/png"
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def difference(item_folder: Path, comparison: Comparison) -> bytes | None:
    """The outline of the pixels in which two masks differ, as a PNG to lay over their image; None where they cannot be compared."""
    paths = [_path(item_folder, name) for name in sorted(comparison.answers)]
    if not shows_masks(comparison) or len(paths) != 2:
        return None
    try:
        first, second = (_values(path) for path in paths if path is not None)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return None
    if first.shape != second.shape:
        return None
    around = np.pad(first != second, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    outline = around[1:-1, 1:-1] & ~inside
    drawn = np.zeros((*outline.shape, 4), np.uint8)
    drawn[outline] = _DIFFERS
    return _encoded(Image.fromarray(drawn))


def _values(path: Path) -> Any:
    with Image.open(path) as image:
        if image.mode not in _MASK_MODES:
            raise ValueError(f"{path}: no mask")
        return np.asarray(image).astype(np.int32)


def _overlay(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    colours = np.array([(*colour, _THROUGH) for colour in _OF_CLASSES], np.uint8)[(values - 1) % len(_OF_CLASSES)]
    return Image.fromarray(np.where(values[..., None] != 0, colours, 0).astype(np.uint8))


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _path(folder: Path, name: str) -> Path | None:
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() and path.suffix.lower() in SUFFIXES else None


def _answers(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return (_words(row["chosen"]), _words(row["rejected"])), ("chosen", "rejected")
    several = row.get("completions") or row.get("masks")
    return (tuple(_words(one) for one in several) if isinstance(several, Sequence) else (), ())


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("path") or value.get("text") or value.get("content") or "")
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[-1], Mapping):
        content = value[-1].get("content")
        return content if isinstance(content, str) else "".join(str(p.get("text") or "") for p in content or ())
    return value if isinstance(value, str) else ""


def _pictures(row: Mapping[str, Any]) -> list[str] | None:
    given = row.get("images") or ([row["image"]] if row.get("image") else [])
    names = [one.get("path") if isinstance(one, Mapping) and not one.get("bytes") else one for one in given]
    texts = [name for name in names if isinstance(name, str)]
    return texts if len(texts) == len(names) else None


def _with_pictures(prompt: Any, pictures: Sequence[str]) -> Text:
    """The prompt as turns; pictures without a place of their own stand before the words of the first turn of the user."""
    if not pictures:
        return prompt if isinstance(prompt, str) else tuple(dict(turn) for turn in prompt or ())
    waiting = list(pictures)
    turns: list[dict[str, Any]] = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt or ()]
    )
    turns = turns or [{"role": "user", "content": ""}]
    for turn in turns:
        parts = [dict(part) for part in _parts(turn)]
        for part in parts:
            if part.get("type") == "image" and "image" not in part and waiting:
                part["image"] = waiting.pop(0)
        turn["content"] = parts
    front = [{"type": "image", "image": name} for name in waiting]
    asking = next((turn for turn in turns if turn.get("role") == "user"), turns[0])
    asking["content"] = [*front, *asking["content"]]
    return tuple(turns)


def _parts(turn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = turn.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [part for part in content or () if isinstance(part, Mapping)]
