"""Candidates of a small SAM: its own three masks of a click, at the size of the image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import GPT2Config, SamConfig, SamModel

from exptilt.data.masks.image_files import read_mask, write_mask
from exptilt.errors import ConfigError, ModelError
from exptilt.policies.segmenters.sam_candidates import SamGenerator, sam_candidates
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import save_segmenter
from exptilt.policies.segmenters.unet import UNet, UNetConfig
from exptilt.runs.mask_candidates import write_candidates
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRequest
from exptilt.testbed.blobs import blobs

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved SAM with random weights, whose masks are neither empty nor full."""
    torch.manual_seed(3)
    vision = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 16,
        "num_pos_feats": 4,
    }
    prompts = {"hidden_size": 8, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_depth": 1}
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder | {"iou_head_hidden_dim": 8}
    )
    path = tmp_path_factory.mktemp("sam")
    SamModel(config).save_pretrained(path)
    return path


def test_three_masks_of_a_click_are_those_of_the_model(folder):
    """By hand: the longest side to 64, its normalisation, padding, and the way back without it."""
    generator = SamGenerator.load(str(folder))
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 64), dtype=np.uint8)
    masks = list(generator.masks(image, [[40, 8]]))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    padded = torch.zeros(1, 3, SIDE, SIDE)
    padded[0, :, :32] = (torch.from_numpy(image / 255.0).float() - mean) / deviation
    with torch.no_grad():
        logits = generator.model(pixel_values=padded, input_points=torch.tensor([[[[40.0, 8.0]]]])).pred_masks[0, 0]
    large = interpolate(logits[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0, :, :32]
    assert [mask.shape for mask in masks] == [(32, 64)] * 3
    agree = [
        float((torch.from_numpy(mask) == (one > 0)).float().mean()) for mask, one in zip(masks, large, strict=True)
    ]
    assert min(agree) > 0.999


def test_the_segmenters_own_mask_comes_first_and_draws_belong_to_the_seed(folder):
    generator = SamGenerator.load(str(folder))
    image, own = np.random.default_rng(1).integers(0, 256, (1, 40, 24), dtype=np.uint8), np.zeros((40, 24), np.int32)
    masks = sam_candidates(generator, image, own, 3, (0, 1), target=np.eye(40, 24, dtype=np.int32))
    assert np.array_equal(masks[0], own)
    assert len({mask.tobytes() for mask in masks}) == len(masks) > 1
    assert set(np.unique(masks)) <= {0, 1}
    assert np.array_equal(
        masks, sam_candidates(generator, image, own, 3, (0, 1), target=np.eye(40, 24, dtype=np.int32))
    )


def test_clicks_fall_on_the_true_mask(folder):
    seen = []

    class Clicked(SamGenerator):
        def masks(self, image, clicks):
            seen.extend(clicks)
            return iter(())

    target = np.zeros((20, 30), np.int32)
    target[3:6, 10:12] = 1
    generator = Clicked(None, None)
    sam_candidates(generator, np.zeros((3, 20, 30), np.uint8), target, 8, (2,), target=target)
    assert len(seen) == 8
    assert all(target[row, column] == 1 for column, row in seen)


def test_exptilt_masks_writes_them_labelled(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, masks = blobs(3, 32, 0)
    for at in range(3):
        Image.fromarray(images[at]).save(tmp_path / f"{at}.png")
        write_mask(tmp_path / f"{at}-true.png", masks[at])
    rows = [{"image": f"{at}.png", "target": f"{at}-true.png"} for at in range(3)]
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_segmenter(Segmenter(UNet(UNetConfig(channels=1, width=4, levels=2))), tmp_path / "unet")
    asked = [
        "segmenter.path=unet",
        "images=images.jsonl",
        "output=out",
        f"sam.path={folder}",
        "annotator.temperature=0",
    ]
    written = write_candidates(load(MaskRequest, None, asked))
    labelled = [json.loads(line) for line in written.manifest.read_text().splitlines()]
    assert labelled
    for row in labelled:
        chosen, rejected = (read_mask(tmp_path / "out" / row[side]) for side in ("chosen", "rejected"))
        assert not np.array_equal(chosen, rejected)
    with pytest.raises(ConfigError, match="two classes"):
        load(MaskRequest, None, [*asked, "classes=3"])


def test_another_model_is_no_sam(tmp_path):
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="is a gpt2, and masks are made by a model of type sam"):
        SamGenerator.load(str(tmp_path / "text"))
    with pytest.raises(ModelError, match="cannot be loaded"):
        SamGenerator.load(str(tmp_path / "nothing"))
