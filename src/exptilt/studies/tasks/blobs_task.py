"""The demo's masks: procedural blobs, a segmenter that learned coarse masks of them, and rounds of a simulated annotator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.data.masks.image_files import write_mask
from exptilt.disk import write_lines
from exptilt.runs.mask_run import run_masks
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.mask_rounds_settings import AnnotatorConfig, MaskRoundsConfig
from exptilt.settings.mask_settings import MaskData, MaskEvaluateConfig, MaskRecipe, SegmenterConfig, UNetSettings
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.testbed.blobs import blobs, thickened


@dataclass(frozen=True)
class BlobsSize:
    """Sizes of all parts; the defaults fit in a minute on two cores."""

    images: int = 48
    """To train on; two comparisons of each in every round."""
    held_out: int = 40
    side: int = 32
    """Pixels."""
    thicker: int = 2
    """Pixels by which the masks that the start learns are too thick."""
    start_steps: int = 150
    rounds: int = 3
    epochs: float = 6.0
    """Passes over the comparisons of a round."""


def rounds_on_blobs(folder: Path, seed: int, size: BlobsSize | None = None) -> MaskRecipe:
    """Draw images, train the start on coarse masks, and give the recipe of rounds from it, with rivals; what is there is kept.

    Args:
        folder: gets `data`, `start` and, by the recipe, `rounds`.
        seed: of images, weights and answers.
        size: of all parts.
    """
    size = size or BlobsSize()
    train, test = _written(folder / "data", seed, size)
    start = folder / "start"
    run_masks(
        MaskRecipe(
            segmenter=SegmenterConfig(config=UNetSettings(channels=1)),
            data=MaskData(train=str(train)),
            output=str(start),
            seed=seed,
            loss=LossChoice.of("sft", normalization="sequence"),
            optim=OptimConfig(learning_rate=2e-3, warmup_ratio=0.05),
            train=TrainConfig(epochs=1000.0, max_steps=size.start_steps, log_every=50, save_every=100_000),
        ),
        Console(quiet=True),
        page=False,
    )
    return MaskRecipe(
        segmenter=SegmenterConfig(path=str(start)),
        data=MaskData(train=str(train), test=str(test)),
        output=str(folder / "rounds"),
        seed=seed,
        train=TrainConfig(epochs=size.epochs, log_every=10, save_every=100_000),
        evaluate=MaskEvaluateConfig(rivals=True),
        rounds=MaskRoundsConfig(num_rounds=size.rounds, annotator=AnnotatorConfig()),
    )


def _written(folder: Path, seed: int, size: BlobsSize) -> tuple[Path, Path]:
    """Manifests of images with coarse masks to imitate and true ones to measure by."""
    images, masks = blobs(size.images + size.held_out, size.side, seed)
    folder.mkdir(parents=True, exist_ok=True)
    manifests = folder / "train.jsonl", folder / "test.jsonl"
    places = range(size.images), range(size.images, len(images))
    for manifest, some in zip(manifests, places, strict=True):
        if not manifest.exists():
            write_lines(manifest, _rows(folder, images, masks, thickened(masks, size.thicker), some))
    return manifests


def _rows(folder: Path, images: Any, masks: Any, coarse: Any, some: range) -> Iterator[dict[str, str]]:
    for at in some:
        names = {"image": f"{at:03d}.png", "mask": f"{at:03d}-coarse.png", "target": f"{at:03d}-true.png"}
        for name, pixels in zip(names.values(), (images[at], coarse[at], masks[at]), strict=True):
            write_mask(folder / name, pixels)
        yield names
