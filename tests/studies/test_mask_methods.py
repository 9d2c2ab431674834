"""Rounds on masks: a preference objective with an anchor gains what imitation and a coin do not, also on real images."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from exptilt.studies.mask_methods import METHODS, compare_methods
from exptilt.testbed.blobs import blobs

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "masks.py"), run_name="masks_script")
DATA = Path(os.environ.get("EXPTILT_DATA", ROOT.parent / "shared" / "data"))
NUCLEI = DATA / "segmentation" / "nuclei_128.npz"


def rounds(folder, parts, steps, number, epochs):
    """The recipe of rounds on images whose start learned coarse masks."""
    manifests = [SCRIPT["written"](folder, name, *part, 2) for name, part in zip(("train", "test"), parts, strict=True)]
    start = SCRIPT["supervised"](folder, manifests[0], 8, steps, 0)
    return SCRIPT["rounds_from"](start, manifests, folder / "study", number, epochs, 0)


def methods(*names):
    return [one for one in METHODS if one.name in names]


def test_two_rounds_gain_what_a_coin_does_not(tmp_path):
    """On blobs, from a start whose masks are two pixels too thick."""
    images, masks = blobs(56, 32, 0)
    parts = [(images[one], masks[one]) for one in (slice(0, 32), slice(32, None))]
    recipe = rounds(tmp_path, parts, 120, 2, 6.0)
    start, preferred, coin, true = compare_methods(recipe, methods("DPO + NLL", "coin-flip labels", "true masks"))
    assert [one.name for one in (start, preferred, coin, true)] == [
        "start",
        "DPO + NLL",
        "coin-flip labels",
        "true masks",
    ]
    assert true.dice.value > preferred.dice.value
    assert preferred.dice.value > start.dice.value + 0.1
    assert preferred.dice.low > start.dice.high
    assert coin.dice.value < start.dice.value + 0.05


def test_nuclei_train_in_small(tmp_path):
    """Real images: the segmenter moves toward the true masks, and its numbers are those of masks."""
    if not NUCLEI.is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    content = np.load(NUCLEI)
    masks = np.unpackbits(content["mask_packed"], axis=1).reshape(-1, 128, 128).astype(np.int32)
    chosen = np.flatnonzero(content["kind"] == "fluorescence")[:16]
    parts = [(content["image"][at], masks[at]) for at in (chosen[:10], chosen[10:])]
    recipe = rounds(tmp_path, parts, 30, 1, 2.0)
    start, preferred = compare_methods(recipe, methods("DPO + NLL"))
    assert preferred.kl.value > 0
    assert start.kl.value == pytest.approx(0, abs=1e-6)
    assert 0 < preferred.dice.value < 1
    assert preferred.nll.value < start.nll.value
