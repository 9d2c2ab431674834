"""Settings of a run on masks: the segmenter, where images and masks are, and which pixels count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from exptilt.kinds import ROLLOUT
from exptilt.settings.declaration import config
from exptilt.settings.loss_choice import AnyLossChoice, LossChoice, NamedLoss, choice_of
from exptilt.settings.mask_rounds_settings import AnnotatorConfig, MaskLaw, MaskRoundsConfig
from exptilt.settings.ranges import Range
from exptilt.settings.training_settings import OF_TEXT_ALONE, OptimConfig, ParallelConfig, TrainConfig

OnProblem = Literal["error", "drop"]


@config
class UNetSettings:
    """A small U-Net with random weights, for a supervised start or a demonstration."""

    channels: int = 3
    """Channels of an image: 1 for grey, 3 for colours."""
    width: int = 8
    """Features of the first level; each level below has twice as many."""
    levels: int = 3
    """Resolutions, each half of the one above."""

    def __post_init__(self) -> None:
        for name in ("channels", "width", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


@config
class MonaiSettings:
    """A network of MONAI with random weights, in two dimensions (`pip install 'exptilt[monai]'`)."""

    net: str
    """Name in monai.networks.nets, such as SegResNet or BasicUNet."""
    channels: int = 3
    """Channels of an image: 1 for grey, 3 for colours."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its other arguments, such as {init_filters: 8}; those of dimensions, channels and classes are set."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels must be >= 1, got {self.channels}")
        taken = {"spatial_dims", "in_channels", "out_channels"} & set(self.arguments)
        if taken:
            raise ValueError(f"arguments: {min(taken)} follows from channels and data.classes; leave it out")


@config
class SegmenterConfig:
    """Where the segmenter's weights start."""

    path: str | None = None
    """Folder of an exptilt run or U-Net, or a folder or hub id of a semantic-segmentation model of transformers."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    config: UNetSettings | None = None
    """A small U-Net with random weights, instead of `path`."""
    monai: MonaiSettings | None = None
    """A network of MONAI with random weights, instead of `path`."""
    trains: Literal["all", "bias"] = "all"
    """bias: only the bias of each class, as a rival that needs few pairs and shows what a shifted threshold alone would do."""

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.path, self.config, self.monai)) != 1:
            raise ValueError("path, config or monai must be set, and only one of them: the weights to start from")


@config
class MaskData:
    """Images with masks, and what to do with rows that cannot be used."""

    train: str
    """A manifest (.jsonl; image and chosen, rejected | masks | mask, label | target) or a folder (images, chosen, rejected | masks)."""
    test: str | None = None
    """Held-out rows, as train."""
    test_fraction: float = 0.0
    """Share of images held out of `train`, in [0, 1); by a hash of the image's content."""
    limit: int | None = None
    """Read only so many rows of `train`."""
    classes: str | int = 2
    """Number of classes, or a .json file with their names; the background is class 0."""
    ignore: int | None = 255
    """Value of pixels that no loss and no measure counts; null: every value is a class."""
    foreground: int | None = None
    """Value that stands for class 1 in masks of two classes, such as 255; then 0 is the background, and nothing is ignored."""
    channels: int | None = None
    """Channels that images are read with, 1 or 3. Default: those of the segmenter."""
    units: Literal["all", "differing"] = "differing"
    """Pixels that a contrast counts; terms that hold likelihoods always read all."""
    reduce: Literal["sum", "mean"] = "mean"
    """What becomes of them; with mean, beta is the strength for one pixel and has one meaning for every size of image."""
    max_difference: float = 0.3
    """Share of pixels in which two masks may differ before the pair is reported: such candidates are too far apart to learn from."""
    on_invalid: OnProblem = "error"
    """A file that cannot be read, or a mask that does not fit its image or its classes."""
    on_identical: OnProblem = "error"
    """Masks of a row that differ in no counted pixel."""
    on_duplicate: OnProblem = "error"
    """A row that repeats an earlier one."""
    on_conflict: Literal["error", "drop", "keep"] = "error"
    """The same masks with opposite labels."""

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {self.test_fraction}")
        if not 0 < self.max_difference <= 1:
            raise ValueError(f"max_difference must be in (0, 1], got {self.max_difference}")
        if isinstance(self.classes, int) and self.classes < 2:
            raise ValueError(f"classes must be >= 2, the background among them, got {self.classes}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be >= 1, got {self.limit}")


@config
class MaskBatchConfig:
    """How rows are put together."""

    size: int = 12
    """Rows (images with their masks) per optimizer step, over all processes, >= 1."""
    images: int = 12
    """Most images of one forward pass, >= 1; no result depends on it."""
    shuffle: bool = True
    """Draw a new order every epoch, from the seed."""

    def __post_init__(self) -> None:
        for name in ("size", "images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


def default_loss() -> LossChoice:
    """DPO with beta 1 on mean log-ratios of differing pixels, anchored by the likelihood of the chosen mask."""
    terms = [{"loss": {"name": "dpo", "beta": 1.0}, "weight": 1.0}, {"loss": {"name": "nll"}, "weight": 1.0}]
    return LossChoice.of("mixture", terms=terms)


@config
class MaskEvaluateConfig:
    """What is measured on held-out images when training has ended."""

    level: Annotated[float, Range(gt=0, lt=1)] = 0.95
    """Coverage of every interval; they are over images."""
    pictures: Annotated[int, Range(ge=0)] = 6
    """Held-out rows that are drawn."""
    rivals: bool = False
    """Train on the same comparisons what must stand beside a preference objective: imitation of winners, one bias a class, labels
    by a coin, and true masks where there are some. Takes four more trainings."""


_ABSENT = {
    "eval_samples": "samples while they train",
    "gradient_checkpointing": "gradient checkpointing",
    "compile": "compiled blocks",
    "precision": "bfloat16",
}
"""What keys of `train` mean for texts, and nothing for masks."""


@config
class MaskRecipe:
    """One run on masks: from preferences between masks to a segmenter."""

    segmenter: SegmenterConfig
    """Where the weights start."""
    data: MaskData
    """Images with masks."""
    output: str
    """Run folder."""
    seed: int = 0
    """Seed of everything that is drawn."""
    loss: AnyLossChoice = default_loss()
    """The objective. Default: DPO with beta 1 and the negative log-likelihood of the chosen mask."""
    batch: MaskBatchConfig = MaskBatchConfig()
    """How rows are put together."""
    optim: OptimConfig = OptimConfig(learning_rate=5e-4, warmup_ratio=0.05)
    """How weights move."""
    train: TrainConfig = TrainConfig(epochs=4.0)
    """How long to train, and what to write on the way."""
    parallel: ParallelConfig = ParallelConfig()
    """How several processes share the work."""
    evaluate: MaskEvaluateConfig = MaskEvaluateConfig()
    """What is measured at the end."""
    rounds: MaskRoundsConfig | None = None
    """Candidates, labels and training several times, each time from the segmenter just trained; none: train once on data.train."""
    allow_unbounded: bool = False
    """Take a linear anchor whose objective has no optimum (weight of at least an eighth of beta)."""
    bare_keys: ClassVar[Mapping[str, str]] = {"rounds": "num_rounds"}
    """Sections that may be one bare value, and the key it is short for."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        object.__setattr__(self, "loss", choice_of(self.loss))
        self._check_loss(self.loss)
        self._check_train()
        if self.evaluate.rivals and self.loss.kind.imitates:
            raise ValueError(
                f"evaluate.rivals: {self.loss.name} imitates masks, and rivals belong to objectives of preferences"
            )
        self._check_rounds()
        if self.parallel.kind == "fsdp":
            raise ValueError(
                "parallel.kind: segmenters are trained by one process, or by several that each hold it (ddp)"
            )

    def _check_loss(self, loss: NamedLoss) -> None:
        if loss.kind.reads != "logps":
            raise ValueError(f"loss: {loss.name} trains a reward model; segmenters take losses on log-probabilities")
        if loss.kind == ROLLOUT:
            raise ValueError(f"loss: {loss.name} learns from texts drawn while training; masks are trained on rows")
        parts = [(term.loss, term.weight) for term in getattr(loss, "terms", ())] or [(loss, 1.0)]
        linear = sum(weight for part, weight in parts if part.name == "anchor_linear")
        beta = sum(weight * float(getattr(part, "beta", 0.0) or 0.0) for part, weight in parts)
        if linear >= beta / 8 and linear > 0 and not self.allow_unbounded:
            raise ValueError(
                f"loss: anchor_linear with weight {linear:g} has no optimum beside beta {beta:g}: it is DPO with label smoothing "
                f"-weight/beta. Take a weight below {beta / 8:g}, another anchor, or set allow_unbounded=true"
            )

    def _check_train(self) -> None:
        """Refuse keys of `train` on which nothing here depends, so that none is ignored in silence."""
        train = self.train
        without_effect = {
            "eval_samples": train.eval_samples > 0,
            "gradient_checkpointing": train.gradient_checkpointing,
            "compile": train.compile,
            "precision": train.precision == "bfloat16",
        }
        for key, is_set in without_effect.items():
            if is_set:
                raise ValueError(f"train.{key}: segmenters do not have {_ABSENT[key]} here; leave it out")
        for name in train.dangers:
            if name in OF_TEXT_ALONE:
                raise ValueError(
                    f"train.stop_if: {name} is a danger of texts, which masks are not watched for; leave it out"
                )

    def _check_rounds(self) -> None:
        rounds = self.rounds
        if rounds is None:
            return
        if self.segmenter.path is None:
            raise ValueError("rounds needs segmenter.path: candidates of random weights are not worth comparing")
        if self.data.test_fraction:
            raise ValueError(
                "rounds makes rows of all images of data.train; name held-out images with data.test, not test_fraction"
            )
        if self.evaluate.rivals and rounds.annotator is None:
            raise ValueError(
                "evaluate.rivals of rounds needs rounds.annotator: rivals make candidates of their own, which nobody labels"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output).expanduser()


@config
class SamSettings:
    """A SAM whose masks are candidates beside the segmenter's own: three for each click."""

    path: str
    """Folder or hub id of a SAM of transformers."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""


@config
class MaskRequest:
    """Candidates of masks, made by a segmenter, to be compared by people or by a simulated annotator."""

    segmenter: SegmenterConfig
    """Whose masks they are near."""
    images: str
    """A manifest (.jsonl with `image`, and `target` for a simulated annotator) or a folder (`images`, and `masks` as targets)."""
    output: str
    """Folder for masks, and pairs.jsonl or items.jsonl."""
    classes: str | int = 2
    """Number of classes, or a .json file with their names."""
    ignore: int | None = 255
    """Value of pixels that do not count."""
    foreground: int | None = None
    """Value that stands for class 1 in masks of two classes."""
    channels: int | None = None
    """Channels that images are read with. Default: those of the segmenter."""
    num_masks: int = 4
    """Masks of each image, the segmenter's own among them, >= 2."""
    num_pairs: int = 2
    """Pairs of each image that the annotator sees, >= 1."""
    law: MaskLaw = MaskLaw()
    """How candidates differ from the segmenter's own mask."""
    sam: SamSettings | None = None
    """Take candidates from a SAM instead of bias, noise and dropout; two classes. Clicks fall on the target, else anywhere."""
    annotator: AnnotatorConfig | None = None
    """Who labels; without it the masks are written for people (`exptilt label`)."""
    limit: int | None = None
    """Read only so many images."""
    round: int = 1
    """Number of the round; others draw other candidates."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        if self.sam is not None and self.classes != 2:
            raise ValueError("sam: its masks are of two classes, background and object; leave classes at 2")
        for name, least in (("num_masks", 2), ("num_pairs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
