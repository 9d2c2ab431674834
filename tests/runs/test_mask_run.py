"""Runs on masks: the loop, the run folder and the resume of texts, with a segmenter as the scorer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exptilt.data.masks.image_files import write_mask
from exptilt.errors import CheckpointError, ConfigError, DataError, TrainingError
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.mask_run import run_masks
from exptilt.settings.mask_settings import SegmenterConfig
from exptilt.training.callbacks.callback import Callback


def metrics():
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_run_trains_measures_and_saves(here, recipe_of):
    outcome = run_masks(recipe_of())
    assert (outcome.finished, outcome.step) == (True, 6)
    lines = metrics()
    first = next(line for line in lines if "eval/loss" in line)
    whole = -first["eval/loss"] + math.log(2)
    assert whole < 0  # log 2 of DPO, and the chosen mask's negative log-likelihood, nats a pixel
    assert first["eval/rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert any(line.get("eval/rewards/margins", 0) > 0 for line in lines)
    found = RunFolder(here / "run").read("mask_evaluation.json")
    assert found["num_images"] == found["num_targets"] == 6
    assert found["policy"]["kl"]["value"] > 0
    assert found["reference"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["policy"]["nll"]["value"] < found["reference"]["nll"]["value"]
    model = load_segmenter(SegmenterConfig(path="run"), 2)
    assert load_segmenter(SegmenterConfig(path="run/model"), 2).fingerprint() == model.fingerprint()
    page = (here / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert run_masks(recipe_of()).step == 6


def test_a_stopped_run_goes_on_bitwise(here, recipe_of):
    whole = recipe_of()
    run_masks(whole)
    expected = (here / "run" / "model" / "model.safetensors").read_bytes()

    class Stop(Callback):
        def after_step(self, progress, sums):
            if progress.step == 3:
                raise KeyboardInterrupt

    other = replace(whole, output=str(here / "second"))
    with pytest.raises(KeyboardInterrupt):
        run_masks(other, callbacks=[Stop()])
    assert RunFolder(here / "second").run.status == "stopped"
    assert run_masks(other).step == 6
    assert (here / "second" / "model" / "model.safetensors").read_bytes() == expected


def test_the_best_weights_by_dice_are_the_model(here, recipe_of):
    far = ("optim.learning_rate=0.1", "optim.schedule=constant")  # after a step that helps, all is background
    run_masks(recipe_of('train.best="max eval/dice"', "train.eval_every=1", *far))
    dice = {line["step"]: line["eval/dice"] for line in metrics() if "eval/dice" in line}
    kept = RunFolder(here / "run").run.kept
    assert len(dice) == 7
    assert (kept.step, kept.value) == max(dice.items(), key=lambda one: (one[1], -one[0]))
    assert 0 < kept.step < 6  # neither the start nor the end, where a plain run would have found its model
    found = RunFolder(here / "run").read("mask_evaluation.json")
    assert found["policy"]["dice"]["value"] == pytest.approx(kept.value, abs=1e-6)
    warnings = RunFolder(here / "run").run
    assert [(one.name, one.step) for one in warnings.warnings if one.alarm] == [("runaway", 2)]
    assert warnings.alarms == ()  # it came after the weights that were kept


def test_without_an_anchor_the_rest_drifts_and_a_guard_rail_says_so(here, recipe_of):
    wild = ("loss={name: dpo, beta: 1}", "optim.learning_rate=0.05", "train.epochs=8", "train.eval_every=1")
    run_masks(recipe_of(*wild))
    said = {one.name: one for one in RunFolder(here / "run").run.warnings}
    lines = [line["eval/agreement"] for line in metrics() if "eval/agreement" in line]
    assert said["displacement"].value == pytest.approx(next(one for one in lines if lines[0] - one > 0.1) - lines[0])
    assert "changes where nobody disagreed" in said["displacement"].message
    assert said["displacement"].advice.startswith("raise loss.terms: the weight of an anchor")
    with pytest.raises(
        TrainingError, match=r"pixels on which both masks of a pair agree .* train\.stop_if has 'displacement'"
    ):
        run_masks(recipe_of(*wild, "train.stop_if=[displacement]", "output=stopped"))
    assert RunFolder(here / "stopped").run.status == "failed"


def test_the_number_of_images_at_once_makes_no_difference(here, recipe_of):
    losses = []
    for images in (1, 6):
        run_masks(replace(recipe_of(f"batch.images={images}"), output=f"run{images}"))
        lines = [json.loads(line) for line in Path(f"run{images}/metrics.jsonl").read_text().splitlines()]
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    "loss", ["dpo", "ipo", "kto", "bco", "sft", "plackett_luce", "simpo", "apo_zero_unpaired", "nll"]
)
def test_other_objectives_train_on_masks(here, recipe_of, loss):
    outcome = run_masks(recipe_of(f"loss={loss}", "train.max_steps=2", "train.eval_every=1"))
    assert outcome.step == 2
    assert all(math.isfinite(value) for line in metrics() for value in line.values() if isinstance(value, float))


def test_another_recipe_does_not_take_the_folder(here, recipe_of):
    run_masks(recipe_of("train.max_steps=1"))
    with pytest.raises(CheckpointError, match="holds a run of another recipe"):
        run_masks(recipe_of("train.max_steps=1", "data.units=all"))


def test_more_than_two_classes(here, recipe_of):
    random = np.random.default_rng(0)
    for path in here.glob("*-true.png"):
        write_mask(path, random.integers(0, 4, (16, 16)))
    outcome = run_masks(recipe_of("data.classes=4", "data.max_difference=1", "train.max_steps=1", "train.eval_every=0"))
    assert outcome.finished
    assert len(RunFolder(here / "run").read("mask_evaluation.json")["policy"]["dice_of_class"]) == 4
    with pytest.raises(Exception, match=r"has 4 classes, and data\.classes has 2"):
        load_segmenter(SegmenterConfig(path="run"), 2)


SPOILED = {
    "size": (
        "another size",
        lambda here: write_mask(here / "pairs3-true.png", np.zeros((8, 8))),
        "8 x 8 pixels, and its image has 16 x 16",
    ),
    "class": (
        "a class that is none",
        lambda here: write_mask(here / "pairs3-true.png", np.full((16, 16), 7)),
        "class id 7",
    ),
    "rgb": (
        "colours",
        lambda here: Image.new("RGB", (16, 16)).save(here / "pairs3-true.png"),
        "a picture in mode RGB; a mask has one class id a pixel",
    ),
    "unreadable": (
        "no picture",
        lambda here: (here / "pairs3-true.png").write_bytes(b"PNG"),
        "cannot be read as an image",
    ),
    "missing": ("no file", lambda here: (here / "pairs3-true.png").unlink(), "no such file"),
    "ignored": (
        "all ignored",
        lambda here: write_mask(here / "pairs3-true.png", np.full((16, 16), 255)),
        "every pixel is ignored",
    ),
    "same": (
        "no difference",
        lambda here: (here / "pairs3-wrong.png").write_bytes((here / "pairs3-true.png").read_bytes()),
        "differ in no counted pixel",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_named_with_its_row(here, recipe_of, name):
    _, spoil, message = SPOILED[name]
    spoil(here)
    with pytest.raises(DataError) as refusal:
        run_masks(recipe_of("train.max_steps=1"))
    (line,) = str(refusal.value).splitlines()
    assert line.startswith("pairs.jsonl:4: ")
    assert message in line
    key = "on_identical" if name == "same" else "on_invalid"
    assert run_masks(recipe_of("train.max_steps=1", f"data.{key}=drop")).finished
    left_out = RunFolder(here / "run").read("data.json")["train"]["rows_left_out"]
    assert sum(left_out.values()) == 1


def test_rows_of_the_manifest_are_checked(here, recipe_of):
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    spoiled = [*rows, rows[0], {**rows[1], "chosen": rows[1]["rejected"], "rejected": rows[1]["chosen"]}]
    text = "".join(json.dumps(row) + "\n" for row in spoiled)
    (here / "pairs.jsonl").write_text(text + '{"image": "a.png", "chosn": "b.png"}\n{broken\n')
    with pytest.raises(DataError) as refusal:
        run_masks(recipe_of())
    lines = str(refusal.value).splitlines()
    assert any("pairs.jsonl:19" in line and "repeats an earlier" in line for line in lines)
    assert any("pairs.jsonl:20" in line and "opposite label" in line for line in lines)
    assert any("pairs.jsonl:21" in line and "did you mean 'chosen'?" in line for line in lines)
    assert any("pairs.jsonl:22" in line and "not valid JSON" in line for line in lines)


def test_masks_of_0_and_255_ask_what_255_means(here, recipe_of):
    for path in here.glob("*-true.png"):
        write_mask(path, (np.asarray(Image.open(path)) > 0) * 255)
    with pytest.raises(DataError, match="is that the foreground"):
        run_masks(recipe_of("data.ignore=null"))


def test_a_linear_anchor_without_an_optimum_is_refused(here, recipe_of):
    terms = "loss={name: mixture, terms: [{loss: {name: dpo, beta: 1}}, {loss: {name: anchor_linear}, weight: 0.2}]}"
    with pytest.raises(ConfigError, match="has no optimum"):
        recipe_of(terms)
    assert recipe_of(terms, "allow_unbounded=true").allow_unbounded
    with pytest.raises(ConfigError, match="has no optimum"):
        recipe_of("loss=anchor_linear")
    halved = terms.replace("beta: 1}}", "beta: 1}, weight: 0.5}").replace("weight: 0.2", "weight: 0.1")
    with pytest.raises(ConfigError, match=r"Take a weight below 0\.0625"):
        recipe_of(halved)
    assert recipe_of(halved.replace("weight: 0.1", "weight: 0.06")).loss.name == "mixture"


@pytest.mark.parametrize(
    "override",
    [
        "train.eval_samples=4",
        "train.gradient_checkpointing=true",
        "train.compile=true",
        "train.precision=bfloat16",
    ],
)
def test_no_key_of_train_is_ignored_in_silence(here, recipe_of, override):
    with pytest.raises(ConfigError, match="segmenters do not have"):
        recipe_of(override)
    with pytest.raises(ConfigError, match=r"train\.stop_if: drift is a danger of texts"):
        recipe_of("train.stop_if=[drift]")


def test_models_whose_pixels_are_not_independent_are_refused(here, recipe_of):
    from transformers import Mask2FormerConfig

    Mask2FormerConfig().save_pretrained(here / "m2f")
    with pytest.raises(Exception, match="predicts a set of masks, not a distribution for each pixel"):
        load_segmenter(SegmenterConfig(path=str(here / "m2f")), 2)


def test_a_segformer_trains_and_loads_again(here, recipe_of):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    shape = {"depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "num_encoder_blocks": 2}
    more = {
        "sr_ratios": [2, 1],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    }
    SegformerForSemanticSegmentation(SegformerConfig(num_channels=1, num_labels=2, **shape, **more)).save_pretrained(
        here / "seg"
    )
    run_masks(recipe_of("segmenter={path: seg}", "train.max_steps=2", "train.eval_every=0"))
    again = SegformerForSemanticSegmentation.from_pretrained(here / "run" / "model")
    start = SegformerForSemanticSegmentation.from_pretrained(here / "seg")
    moved = [not torch.equal(a, b) for a, b in zip(again.parameters(), start.parameters(), strict=True)]
    assert any(moved)
