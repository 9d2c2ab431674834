"""Candidates as files: pairs with labels of a simulated annotator, or items for people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exptilt.errors import ConfigError
from exptilt.rewards.mask_annotator import MaskAnnotator
from exptilt.runs.mask_run import run_masks
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRequest
from exptilt.verbs.masks import masks


def test_candidates_become_pairs_or_items(here, recipe_of, capsys):
    run_masks(recipe_of("train.max_steps=1", "train.eval_every=0"))
    request = load(
        MaskRequest, None, ["segmenter.path=run", "images=pairs.jsonl", "output=cand", "annotator.temperature=0"]
    )
    masks(request)
    rows = [json.loads(line) for line in Path("cand/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 36
    assert "36 pairs of 18 images" in capsys.readouterr().out
    annotator = MaskAnnotator(temperature=0)
    for row in rows:
        chosen, rejected, true = (
            np.asarray(Image.open(here / "cand" / row[key])) for key in ("chosen", "rejected", "target")
        )
        assert annotator.utility(chosen, true) >= annotator.utility(rejected, true)
    before = Path("cand/pairs.jsonl").read_bytes()
    masks(request)
    assert Path("cand/pairs.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="masks of another request"):
        masks(replace(request, round=2))
    (here / "mine").mkdir()
    (here / "mine" / "pairs.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        masks(replace(request, output="mine"))
    assert (here / "mine" / "pairs.jsonl").read_text() == "mine"
    masks(load(MaskRequest, None, ["segmenter.path=run", "images=pairs.jsonl", "output=items"]))
    items = [json.loads(line) for line in Path("items/items.jsonl").read_text().splitlines()]
    assert len(items) == 36
    assert [len(set(item["masks"])) for item in items] == [2] * 36
    assert "target" not in items[0]  # which people must not see
    run_masks(
        recipe_of("train.max_steps=1", "train.resume=never", "data.train=cand/pairs.jsonl", "data.max_difference=1")
    )
