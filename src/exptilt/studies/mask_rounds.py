"""Rounds on masks: candidates of the latest segmenter, a simulated annotator, training, and the next round from its result.

Every method sees equally many comparisons. Beside a preference objective stand what must always stand beside it: the start,
imitation of winners, one bias a class, labels by a coin, and true masks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.data.masks.mask_checks import prepare_masks
from exptilt.disk import write_lines
from exptilt.evaluation.masks.mask_evaluation import evaluate_masks
from exptilt.kinds import COMPLETION
from exptilt.policies.segmenters.segmenter_files import channels_of, load_segmenter
from exptilt.run_folder.mask_evaluation_record import MaskMeasures
from exptilt.runs.mask_candidates import write_candidates
from exptilt.runs.mask_run import run_masks
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.mask_rounds_settings import AnnotatorConfig
from exptilt.settings.mask_settings import MaskData, MaskRecipe, MaskRequest, SegmenterConfig
from exptilt.settings.training_settings import TrainConfig


@dataclass(frozen=True)
class MaskMethod:
    """One way to learn from the same comparisons."""

    name: str
    loss: Any
    """As in a recipe."""
    coin: bool = False
    """Whether labels are a coin's."""
    trains: str = "all"
    truth: bool = False
    """Whether true masks are learned from instead of comparisons."""


def _anchored(anchor: Mapping[str, Any] | None, weight: float = 1.0) -> Any:
    terms = [{"loss": {"name": "dpo", "beta": 1.0}}]
    return {"name": "mixture", "terms": [*terms, *([{"loss": dict(anchor), "weight": weight}] if anchor else [])]}


NLL: Mapping[str, Any] = {"name": "nll"}
METHODS = (
    MaskMethod("DPO", _anchored(None)),
    MaskMethod("DPO + NLL", _anchored(NLL)),
    MaskMethod("DPO + log-sum-exp", _anchored({"name": "anchor_logsumexp"})),
    MaskMethod("DPO + hinge", _anchored({"name": "anchor_hinge"})),
    MaskMethod("DPO + reference hinge", _anchored({"name": "anchor_reference_hinge"}, 3.0)),
    MaskMethod("DPO + linear .1", _anchored({"name": "anchor_linear"}, 0.1)),
    MaskMethod("imitation of winners", NLL),
    MaskMethod("bias alone", _anchored(None), trains="bias"),
    MaskMethod("coin-flip labels", _anchored(NLL), coin=True),
    MaskMethod("true masks", {"name": "sft", "normalization": "sequence"}, truth=True),
)
"""Anchors and rivals, by what they are called in tables."""


@dataclass(frozen=True, kw_only=True)
class RoundsOfMasks:
    """One study of rounds."""

    start: Path
    """Folder of the segmenter that all methods start from."""
    images: Path
    """Manifest of training images with targets."""
    test: Path
    """Manifest of held-out images with targets."""
    output: Path
    rounds: int = 3
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    num_pairs: int = 2
    """Comparisons of each image and round."""
    epochs: float = 4.0
    batch: int = 12
    learning_rate: float = 5e-4
    seed: int = 0
    classes: int = 2


def run_rounds(
    study: RoundsOfMasks, methods: Sequence[MaskMethod] = METHODS, console: Console | None = None
) -> list[MaskMeasures]:
    """Train every method, and measure the segmenters after their last rounds.

    Returns:
        The start first, then the methods in order.
    """
    quiet = console or Console(quiet=True)
    found = [_measured(study, study.start, "start")]
    for method in methods:
        latest = study.start
        for number in range(1, study.rounds + 1):
            latest = _one_round(study, method, latest, number, quiet)
        found.append(_measured(study, latest, method.name))
    return found


def _one_round(study: RoundsOfMasks, method: MaskMethod, latest: Path, number: int, console: Console) -> Path:
    folder = study.output / method.name.replace(" ", "-").replace("+", "and").replace(".", "") / f"round-{number}"
    rows = _truth(study, folder) if method.truth else _comparisons(study, method, latest, number, folder)
    recipe = MaskRecipe(
        segmenter=SegmenterConfig(path=str(latest), trains=method.trains),  # type: ignore[arg-type]
        data=MaskData(
            train=str(rows), classes=study.classes, max_difference=1.0, on_duplicate="drop", on_identical="drop"
        ),
        output=str(folder / "run"),
        seed=study.seed,
        loss=LossChoice.of(**_named(method.loss)),
        train=TrainConfig(epochs=study.epochs, log_every=10_000, save_every=10_000, keep_checkpoints=1),
    )
    recipe = replace(
        recipe,
        batch=replace(recipe.batch, size=study.batch, images=study.batch),
        optim=replace(recipe.optim, learning_rate=study.learning_rate),
    )
    run_masks(recipe, console)
    return folder / "run"


def _named(loss: Mapping[str, Any]) -> dict[str, Any]:
    return {("loss" if key == "name" else key): value for key, value in loss.items()}


def _comparisons(study: RoundsOfMasks, method: MaskMethod, latest: Path, number: int, folder: Path) -> Path:
    annotator = replace(study.annotator, flip=0.5) if method.coin else study.annotator
    request = MaskRequest(
        segmenter=SegmenterConfig(path=str(latest)),
        images=str(study.images),
        output=str(folder / "masks"),
        classes=study.classes,
        num_pairs=study.num_pairs,
        annotator=annotator,
        round=number,
        seed=study.seed,
    )
    return write_candidates(request).manifest


def _truth(study: RoundsOfMasks, folder: Path) -> Path:
    """True masks as often as others have comparisons."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in study.images.read_text(encoding="utf-8").splitlines()]
    base = study.images.parent.resolve()
    write_lines(
        folder / "true.jsonl",
        (
            {"image": str(base / row["image"]), "mask": str(base / row["target"]), "weight": float(study.num_pairs)}
            for row in rows
        ),
    )
    return folder / "true.jsonl"


def _measured(study: RoundsOfMasks, folder: Path, name: str) -> MaskMeasures:
    segmenter = load_segmenter(SegmenterConfig(path=str(folder)), study.classes)
    start = load_segmenter(SegmenterConfig(path=str(study.start)), study.classes)
    data = MaskData(train=str(study.test), classes=study.classes)
    rows = prepare_masks(data, COMPLETION, channels_of(segmenter)).train
    return evaluate_masks(segmenter, start, rows, name=name)
