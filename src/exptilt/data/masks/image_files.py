"""Image and mask files as arrays; Pillow reads pictures, numpy its own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from exptilt.data.problems import RowError

ARRAYS = (".npy", ".npz")
_WHOLE_MODES = ("1", "L", "P", "I", "I;16")
"""Modes of pictures whose pixels are one whole number each."""


def read_image(path: Path, channels: int) -> Any:
    """(channels, H, W) array of an image: uint8, uint16 or float32.

    Raises:
        RowError: the file is missing, is no image, or has other channels.
    """
    if path.suffix in ARRAYS:
        array = _array(path, "image")
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0) if array.shape[-1] in (1, 3) else array
        if array.ndim != 3 or array.shape[0] != channels:
            raise RowError("bad_value", f"{path}: an image of shape {array.shape}, and {channels} channels are read")
        return array if array.dtype in (np.uint8, np.uint16) else array.astype(np.float32)
    picture = _picture(path)
    deep = picture.mode in ("I", "I;16", "F")
    if deep and channels == 1:
        array = np.asarray(picture)[None]
        return array.astype(np.uint16) if picture.mode != "F" else array.astype(np.float32)
    array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def read_mask(path: Path, *, foreground: int | None = None) -> Any:
    """(H, W) int32 of a mask of class ids.

    Args:
        path: a picture whose pixels are whole numbers (grey, palette, black and white), or a numpy file.
        foreground: value that stands for class 1; all others are class 0.

    Raises:
        RowError: the file is missing, unreadable, or a picture in colours.
    """
    if path.suffix in ARRAYS:
        array = _array(path, "mask")
        if array.ndim != 2 or array.dtype.kind not in "iub":
            raise RowError("bad_value", f"{path}: a mask is (H, W) whole numbers, this is {array.shape} {array.dtype}")
    else:
        picture = _picture(path)
        if picture.mode not in _WHOLE_MODES:
            raise RowError(
                "bad_value",
                f"{path}: a picture in mode {picture.mode}; a mask has one class id a pixel: save it as a grey or palette PNG",
            )
        array = np.asarray(picture)
    ids: Any = array.astype(np.int32)
    return ids if foreground is None else (ids == foreground).astype(np.int32)


def write_mask(path: Path, ids: Any) -> None:
    """Write class ids as a grey PNG of 8 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)


def _picture(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise RowError("missing_column", f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RowError("wrong_type", f"{path}: cannot be read as an image ({error})") from None
    return picture


def _array(path: Path, name: str) -> Any:
    try:
        content = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise RowError("missing_column", f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise RowError("wrong_type", f"{path}: cannot be read as a numpy file ({error})") from None
    if path.suffix == ".npy":
        return content
    key = name if name in content.files else content.files[0] if content.files else ""
    if not key:
        raise RowError("wrong_type", f"{path}: holds no array")
    return content[key]
