"""Checks of images and masks: what is wrong is counted, named with file and row, and decided by a setting."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from exptilt.data.masks.image_files import write_mask
from exptilt.data.masks.mask_checks import prepare_masks, refused_masks
from exptilt.errors import DataError
from exptilt.kinds import PAIR, UNPAIRED
from exptilt.settings.mask_settings import MaskData


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """`prepared(rows, kind, **settings)` of a folder with an image of 8 x 8 and masks with so many pixels set: m0, m8, m32."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Image.fromarray(np.full((8, 8), ord(name), np.uint8)).save(f"{name}.png")
    for count in (0, 8, 10, 32):
        ids = np.zeros(64, np.int32)
        ids[:count] = 1
        write_mask(tmp_path / f"m{count}.png", ids.reshape(8, 8))

    def make(rows, kind=PAIR, **settings):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare_masks(MaskData(train="rows.jsonl", **settings), kind, 1)

    return make


def found(report):
    return {one.code: (one.severity, one.count, one.message) for one in report.findings}


PAIRED = {"image": "a.png", "chosen": "m8.png", "rejected": "m0.png"}


def test_candidates_too_far_apart_are_warned_of_with_their_row(prepared):
    rows = [PAIRED, {"image": "b.png", "chosen": "m32.png", "rejected": "m0.png"}]
    far = found(prepared(rows).report)["far"]
    assert far == ("warning", 1, "rows.jsonl:2: the masks differ in 50% of the pixels (data.max_difference=0.3)")
    assert len(prepared(rows).train) == 2  # a warning leaves the row in
    assert found(prepared(rows, max_difference=0.5).report) == {}


def test_copies_and_contradictions(prepared):
    turned = {"image": "a.png", "chosen": "m0.png", "rejected": "m8.png"}
    report = prepared([PAIRED, PAIRED, turned]).report
    assert found(report)["duplicate"] == ("error", 1, "rows.jsonl:2: the row repeats an earlier one")
    assert found(report)["conflict"] == ("error", 1, "rows.jsonl:3: an earlier row has the opposite label")
    assert len(prepared([PAIRED, PAIRED, turned], on_duplicate="drop", on_conflict="keep").train) == 2
    assert len(prepared([PAIRED, PAIRED, turned], on_duplicate="drop", on_conflict="drop").train) == 1


def test_marks_of_single_masks_contradict_each_other(prepared):
    good = {"image": "a.png", "mask": "m8.png", "label": True}
    report = prepared([good, good | {"label": False}, good | {"mask": "m10.png"}], UNPAIRED).report
    assert found(report)["conflict"][1:] == (1, "rows.jsonl:2: an earlier row has the opposite label")
    with pytest.raises(DataError, match=r"^rows\.jsonl:2: an earlier row has the opposite label; settle the label"):
        refused_masks(prepared([good, good | {"label": False}], UNPAIRED))


def test_what_one_mask_ignores_counts_in_neither(prepared, tmp_path):
    ids = np.zeros(64, np.int32)
    ids[:8] = 255
    write_mask(tmp_path / "ignores.png", ids.reshape(8, 8))
    report = prepared([{"image": "a.png", "chosen": "m8.png", "rejected": "ignores.png"}]).report
    assert found(report)["identical"][2] == "rows.jsonl:1: m8.png and ignores.png differ in no counted pixel"
