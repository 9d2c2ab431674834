"""Images and masks of every kind of file, pixel for pixel, and what is no single image."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from PIL import Image

from exptilt.data.masks.image_files import read_image, read_mask
from exptilt.data.problems import RowError
from exptilt.policies.segmenters.mask_scorer import as_floats

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 65536, (6, 5), dtype=np.uint16)


def test_sixteen_bits_keep_their_digits_in_one_channel_and_in_three(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(DEEP).save(tmp_path / name)
        one, three = (read_image(tmp_path / name, channels) for channels in (1, 3))
        assert np.array_equal(one, DEEP[None])
        assert np.array_equal(three, np.stack([DEEP] * 3))
        assert as_floats(one).max() == pytest.approx(DEEP.max() / 65535, abs=1e-6)


def test_wider_numbers_are_not_wrapped(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(RowError, match="pixels from 0 to 70000"):
        read_image(tmp_path / "wide.tif", 1)


def test_a_stack_is_refused_and_not_cut_to_its_first_page(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (1, 2, 3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for read in (lambda path: read_image(path, 1), read_mask):
        with pytest.raises(RowError, match="holds 3 pages; one image a file is read"):
            read(tmp_path / "stack.tif")


def test_what_pillow_does_not_read_tifffile_does(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="pip install 'exptilt[masks]'")
    colours = RANDOM.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "c.tif", colours, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "c.tif", 3), np.moveaxis(colours, -1, 0))
    with pytest.raises(RowError, match="1 channels are read"):
        read_image(tmp_path / "c.tif", 1)
    with pytest.raises(RowError, match=r"a mask is \(H, W\) whole numbers"):
        read_mask(tmp_path / "c.tif")
    ids = RANDOM.integers(0, 300, (6, 5)).astype(np.uint64)
    tifffile.imwrite(tmp_path / "m.tif", ids)
    assert np.array_equal(read_mask(tmp_path / "m.tif"), ids.astype(np.int32))
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((2, 6, 5, 3), np.uint16), photometric="rgb")
    with pytest.raises(RowError, match="holds 2 pages"):
        read_image(tmp_path / "s.tif", 3)
    (tmp_path / "broken.tif").write_bytes((tmp_path / "c.tif").read_bytes()[:60])
    with pytest.raises(RowError, match="cannot be read as"):
        read_image(tmp_path / "broken.tif", 3)


def test_without_tifffile_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tifffile":
            raise ImportError(name)
        return real(name, *rest)

    (tmp_path / "odd.tif").write_bytes(b"II*\x00 no directory")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RowError, match=r"pip install 'exptilt\[masks\]'|cannot be read"):
        read_image(tmp_path / "odd.tif", 1)
