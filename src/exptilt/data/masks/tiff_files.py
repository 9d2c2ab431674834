"""TIFF files that Pillow does not read (several channels of 16 bits, floats, tiles): an optional extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.wording import in_one_line

TIFF = (".tif", ".tiff")


def read_tiff(path: Path) -> Any:
    """The array of a TIFF file of one page.

    Raises:
        RowError: it cannot be read, holds several pages, or tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError:
        raise RowError(
            "wrong_type",
            f"{path}: Pillow does not read this kind of TIFF, tifffile may: pip install 'exptilt[masks]'",
        ) from None
    try:
        with tifffile.TiffFile(path) as file:
            pages = len(file.pages)
            array = file.pages[0].asarray()
    except Exception as error:  # decoders raise whatever is wrong with a file
        raise RowError("wrong_type", f"{path}: cannot be read as a TIFF ({in_one_line(error)})") from None
    if pages != 1:
        raise RowError("bad_value", f"{path}: holds {pages} pages; one image a file is read, and no stacks")
    return array
