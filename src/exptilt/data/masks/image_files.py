"""Image and mask files as arrays; Pillow reads pictures, numpy its own files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from exptilt.data.masks.tiff_files import TIFF, read_tiff
from exptilt.data.problems import RowError

ARRAYS = (".npy", ".npz")
_WHOLE_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Modes of pictures whose pixels are one whole number each."""
_BITS = 258
"""TIFF's tag of bits per channel."""
_DEEP_MODES = ("I", "I;16", "I;16B", "F")
"""Modes of grey pictures of more than 8 bits; three channels of such an image are alike."""


def read_image(path: Path, channels: int) -> Any:
    """(channels, H, W) array of an image: uint8, uint16 or float32.

    Raises:
        RowError: the file is missing, is no image, or has other channels.
    """
    if path.suffix in ARRAYS:
        return _with_channels(path, _array(path, "image"), channels)
    picture = _picture(path)
    if not isinstance(picture, Image.Image):
        return _with_channels(path, picture, channels)
    if picture.mode in _DEEP_MODES:
        return np.repeat(_deep(path, np.asarray(picture))[None], channels, 0)
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
    picture = None if path.suffix in ARRAYS else _picture(path)
    if not isinstance(picture, Image.Image):
        array = _array(path, "mask") if picture is None else picture
        if array.ndim != 2 or array.dtype.kind not in "iub":
            raise RowError("bad_value", f"{path}: a mask is (H, W) whole numbers, this is {array.shape} {array.dtype}")
    else:
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


def _deep(path: Path, grey: Any) -> Any:
    """Grey pixels of more than 8 bits, as uint16 or float32."""
    if grey.dtype.kind == "f":
        return grey.astype(np.float32)
    low, high = int(grey.min(initial=0)), int(grey.max(initial=0))
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise RowError(
            "bad_value", f"{path}: pixels from {low} to {high}; images of 8 or 16 bits or of floats are read"
        )
    return grey.astype(np.uint16)


def _with_channels(path: Path, array: Any, channels: int) -> Any:
    """An array of (H, W), (H, W, C) or (C, H, W) as (C, H, W)."""
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0) if array.shape[-1] in (1, 3) else array
    if array.ndim != 3 or array.shape[0] != channels:
        raise RowError("bad_value", f"{path}: an image of shape {array.shape}, and {channels} channels are read")
    return array if array.dtype in (np.uint8, np.uint16) else array.astype(np.float32)


def _picture(path: Path) -> Any:
    """The picture of a file, or the array of a TIFF that Pillow does not read, or not in full."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's, on broken metadata: the error below says enough
            with Image.open(path) as picture:
                pages = getattr(picture, "n_frames", 1)
                bits = max(getattr(picture, "tag_v2", {}).get(_BITS, (8,)))
                picture.load()
    except FileNotFoundError:
        raise RowError("missing_column", f"{path}: no such file") from None
    except UnidentifiedImageError as error:
        if path.suffix.lower() in TIFF:
            return read_tiff(path)
        raise RowError("wrong_type", f"{path}: cannot be read as an image ({error})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RowError("wrong_type", f"{path}: cannot be read as an image ({error})") from None
    if bits > 8 and picture.mode not in _DEEP_MODES:
        return read_tiff(path)  # Pillow keeps the upper 8 bits of several channels
    if pages > 1:
        raise RowError("bad_value", f"{path}: holds {pages} pages; one image a file is read, and no stacks")
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
