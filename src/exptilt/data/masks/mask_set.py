"""Images with masks as groups, checked file by file, and read again only where memory would not hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from exptilt.data.groups import Completion, Group
from exptilt.data.masks.image_files import read_image, read_mask
from exptilt.data.masks.manifest import MaskRow
from exptilt.data.problems import RowError
from exptilt.errors import DataError

_KEPT_BYTES = 2**30
"""Pixels that are kept in memory; rows beyond that are read again when they are asked for."""


@dataclass(frozen=True)
class Palette:
    """What values of pixels mean."""

    names: tuple[str, ...]
    """Of classes, the background first."""
    ignore: int | None = 255
    foreground: int | None = None

    @classmethod
    def of(cls, classes: str | int, ignore: int | None, foreground: int | None) -> Palette:
        """Read names from a file, or number the classes.

        Raises:
            DataError: the file is no list of names, or names of two classes are needed.
        """
        if isinstance(classes, int):
            names = ("background", "foreground") if classes == 2 else tuple(f"class {one}" for one in range(classes))
        else:
            names = _names_in(Path(classes).expanduser())
        if foreground is not None and len(names) != 2:
            raise DataError(f"data.foreground says what class 1 of two is, and there are {len(names)} classes")
        return cls(names, None if foreground is not None else ignore, foreground)

    def read(self, path: Path, size: tuple[int, int]) -> Any:
        """(H, W) class ids of a mask; ignored pixels are -1.

        Raises:
            RowError: it cannot be read, has another size than its image, or ids that are no class.
        """
        ids = read_mask(path, foreground=self.foreground)
        if ids.shape != size:
            raise RowError("bad_value", f"{path}: {_size(ids.shape)} pixels, and its image has {_size(size)}")
        if self.ignore is not None:
            ids = np.where(ids == self.ignore, -1, ids)
        highest = int(ids.max(initial=-1))
        if highest >= len(self.names) or ids.min(initial=0) < -1:
            values = sorted(set(np.unique(ids).tolist()) - {-1})
            hint = (
                "; is that the foreground? set data.foreground=" + str(highest)
                if values in ([0, highest], [highest])
                else ""
            )
            raise RowError("bad_value", f"{path}: class id {highest}, and there are {len(self.names)} classes{hint}")
        return ids

    def values(self, ids: Any) -> Any:
        """Class ids as values of pixels, which `read` turns into the same ids."""
        return ids if self.foreground is None else np.where(ids == 1, self.foreground, 0)


def _names_in(path: Path) -> tuple[str, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"data.classes: {path}: cannot be read ({error})") from None
    names = content.get("names", list(content)) if isinstance(content, dict) else content
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise DataError(f'data.classes: {path}: must be a list of two or more names, or {{"names": [...]}}')
    return tuple(names)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


@dataclass(frozen=True)
class Pixels:
    """A row with its pixels."""

    image: Any
    """(C, H, W)."""
    masks: Any
    """(K, H, W) int32 class ids, -1 where ignored."""
    target: Any | None
    """(H, W) the true mask, where the row has one."""

    @property
    def valid(self) -> Any:
        """(H, W) bool, pixels that no mask ignores."""
        return (self.masks >= 0).all(0)

    @property
    def differing(self) -> Any:
        """(H, W) bool, valid pixels in which masks differ."""
        return self.valid & (self.masks != self.masks[:1]).any(0)

    @property
    def digest(self) -> str:
        """Of image and masks, in their order."""
        content = hashlib.blake2b(self.image.tobytes() + repr(self.image.shape).encode(), digest_size=16)
        content.update(self.masks.tobytes())
        return content.hexdigest()


def read_pixels(row: MaskRow, palette: Palette, channels: int) -> Pixels:
    """Read the files of a row.

    Raises:
        RowError: one cannot be read, or does not fit.
    """
    image = read_image(row.image, channels)
    size = image.shape[1:]
    masks = np.stack([palette.read(path, size) for path in row.masks])
    return Pixels(image, masks, None if row.target is None else palette.read(row.target, size))


@dataclass
class MaskSet(Sequence[Group[Any]]):
    """Rows that were checked, as groups: `prompt` is the image (C, H, W), completions are masks, flat."""

    rows: list[MaskRow]
    palette: Palette
    channels: int
    _kept: dict[int, Pixels] = field(default_factory=dict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Group[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group[Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} rows, and none at {index}")
        return group_of(self.rows[index], self.pixels(index))

    def __iter__(self) -> Iterator[Group[Any]]:
        return (self[at] for at in range(len(self)))

    def pixels(self, index: int) -> Pixels:
        """The pixels of a row."""
        index %= len(self)
        if index not in self._kept:
            pixels = read_pixels(self.rows[index], self.palette, self.channels)
            size = pixels.image.nbytes + pixels.masks.nbytes
            if self._bytes + size > _KEPT_BYTES:
                return pixels
            self._kept[index], self._bytes = pixels, self._bytes + size
        return self._kept[index]

    def some(self, indices: Sequence[int]) -> MaskSet:
        """Some of the rows."""
        kept = {place: self._kept[index] for place, index in enumerate(indices) if index in self._kept}
        size = sum(pixels.image.nbytes + pixels.masks.nbytes for pixels in kept.values())
        return MaskSet([self.rows[index] for index in indices], self.palette, self.channels, kept, size)


def group_of(row: MaskRow, pixels: Pixels) -> Group[Any]:
    """A row as the unit of work; pixels that one mask ignores count in none."""
    valid = pixels.valid.ravel()
    masks = np.where(pixels.masks < 0, 0, pixels.masks).reshape(len(pixels.masks), -1)
    return Group(
        id=row.where,
        prompt=pixels.image,
        completions=tuple(Completion(ids, valid) for ids in masks),
        label=row.label,
        weight=row.weight,
        section=row.annotator,
    )
