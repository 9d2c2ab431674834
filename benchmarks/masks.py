"""Rounds of preferences between masks, all anchors and rivals: on procedural blobs, or on nuclei.

    python benchmarks/masks.py blobs --seeds 5
    python benchmarks/masks.py nuclei --data ../shared/data/segmentation/nuclei_128.npz --seeds 3 --images 160

The start is a U-Net trained on coarse labels (true masks grown by so many pixels): wrong in one systematic way, which candidates span.
A table of Dice after the last round is printed, with the mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from exptilt.data.masks.image_files import write_mask
from exptilt.runs.mask_run import run_masks
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.studies.mask_methods import METHODS, compare_methods
from exptilt.testbed.blobs import blobs, thickened


def written(folder: Path, name: str, images, masks, grown: int) -> Path:
    """Images with true and with coarse masks, and their manifest."""
    coarse, rows = thickened(masks, grown), []
    for at in range(len(images)):
        stem = f"{name}{at:04d}"
        Image.fromarray(images[at]).save(folder / f"{stem}.png")
        write_mask(folder / f"{stem}-true.png", masks[at])
        write_mask(folder / f"{stem}-coarse.png", coarse[at])
        rows.append({"image": f"{stem}.png", "mask": f"{stem}-coarse.png", "target": f"{stem}-true.png"})
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def supervised(folder: Path, manifest: Path, width: int, steps: int, seed: int) -> Path:
    """A U-Net trained on coarse masks."""
    recipe = load(
        MaskRecipe,
        None,
        [
            f"segmenter={{config: {{channels: 1, width: {width}, levels: 3}}}}",
            f"data.train={manifest}",
            f"output={folder / 'start'}",
            f"seed={seed}",
            "loss={name: sft, normalization: sequence}",
            "optim.learning_rate=2e-3",
            "train.epochs=1000",
            f"train.max_steps={steps}",
            "train.log_every=100000",
            "train.save_every=100000",
        ],
    )
    run_masks(recipe, Console(quiet=True))
    return folder / "start"


def rounds_from(start: Path, manifests: list[Path], output: Path, rounds: int, epochs: float, seed: int) -> MaskRecipe:
    """Rounds of a simulated annotator, two comparisons of each image."""
    return load(
        MaskRecipe,
        None,
        [
            f"segmenter.path={start}",
            f"data.train={manifests[0]}",
            f"data.test={manifests[1]}",
            f"output={output}",
            f"seed={seed}",
            f"rounds={{num_rounds: {rounds}, annotator: {{temperature: 0.02}}}}",
            f"train.epochs={epochs}",
            "train.log_every=10000",
            "train.save_every=10000",
            "train.keep_checkpoints=1",
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", choices=["blobs", "nuclei"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--methods", nargs="*", help="begin of the names; default, all")
    given = parser.parse_args()
    methods = [one for one in METHODS if not given.methods or any(one.name.startswith(name) for name in given.methods)]
    dice: dict[str, list[float]] = {}
    began = time.process_time()
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.world == "blobs":
                images, masks = blobs(given.images + 40, 32, seed)
                train = slice(0, given.images), slice(given.images, None)
                parts = [(images[one], masks[one]) for one in train]
                grown = 2
            else:
                content = np.load(given.data)
                masks = np.unpackbits(content["mask_packed"], axis=1).reshape(-1, 128, 128).astype(np.int32)
                fluorescent = content["kind"] == "fluorescence"
                train_at = np.flatnonzero(fluorescent & ~content["is_test"])
                test_at = np.flatnonzero(fluorescent & content["is_test"])
                train_at = np.random.default_rng(seed).permutation(train_at)[: given.images]
                parts = [(content["image"][at], masks[at]) for at in (train_at, test_at[:60])]
                grown = 2
            manifests = [
                written(folder, name, *part, grown) for name, part in zip(("train", "test"), parts, strict=True)
            ]
            start = supervised(folder, manifests[0], 8, given.steps, seed)
            recipe = rounds_from(start, manifests, folder / "study", given.rounds, given.epochs, seed)
            for one in compare_methods(recipe, methods):
                dice.setdefault(one.name, []).append(one.dice.value)
                print(
                    seed,
                    one.name,
                    one.dice,
                    f"best threshold {one.dice_at_best}",
                    f"ece {one.ece:.3f}",
                    f"kl {one.kl.value:.4f}",
                    flush=True,
                )
    print(f"{'method':26s} Dice, mean +- sd over {given.seeds} seeds")
    for name, values in dice.items():
        print(f"{name:26s} {np.mean(values):.3f} +- {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}")
    print(f"{time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
