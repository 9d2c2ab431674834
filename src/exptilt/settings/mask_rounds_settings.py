"""`rounds:` of a recipe for masks: candidates, labels, training, and again from the segmenter just trained. Never imports torch.

rounds: 3                                                       # people vote between the rounds
rounds: {num_rounds: 3, annotator: {temperature: 0.02}}         # a simulated annotator labels; images have true masks
"""

from __future__ import annotations

from typing import Annotated, Literal

from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Range


@config
class AnnotatorConfig:
    """A simulated annotator, who knows the true masks."""

    overlap: Literal["dice", "iou"] = "dice"
    """What makes a mask better."""
    temperature: float = 0.02
    """Difference in overlap that counts, >= 0; 0 prefers the better mask always."""
    flip: float = 0.0
    """Share of answers that are turned round, in [0, 0.5]; 0.5 is a coin."""
    weights: tuple[float, ...] = ()
    """Of classes but the background, one each, >= 0; all alike by default."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if not 0 <= self.flip <= 0.5:
            raise ValueError(f"flip must be in [0, 0.5], got {self.flip}")
        if self.weights and (min(self.weights) < 0 or not sum(self.weights) > 0):
            raise ValueError(f"weights must be >= 0 and not all 0, got {list(self.weights)}")


@config
class MaskLaw:
    """How candidates differ from the segmenter's own mask, which is always one of them."""

    bias: NonNegative = 1.0
    """Standard deviation of the bias of each class, in logits."""
    noise: NonNegative = 0.6
    """Standard deviation of the smooth noise, in logits."""
    smoothness: Annotated[int, Range(ge=1)] = 4
    """Pixels over which noise is smooth."""
    dropout: bool = False
    """Draw logits with dropout on."""


@config
class MaskRoundsConfig:
    """Rounds of candidates, labels and training; each begins with the segmenter that the round before trained."""

    num_rounds: Annotated[int, Range(ge=1)]
    """How many; `rounds: 3` is short for it. A finished recipe goes on when it is raised."""
    images: str | None = None
    """A manifest with `image` (and `target`) or a folder of images, candidates of which are compared. Default: data.train."""
    num_masks: Annotated[int, Range(ge=2)] = 4
    """Candidates of each image, the segmenter's own mask among them."""
    num_pairs: Annotated[int, Range(ge=1)] = 2
    """Pairs of each image that are compared, drawn without repetition."""
    law: MaskLaw = MaskLaw()
    """How candidates differ from the segmenter's own mask."""
    annotator: AnnotatorConfig | None = None
    """Who labels: a simulated annotator, who needs true masks. Default: people, for whose votes the round waits."""
    on_tie: Literal["drop", "keep"] = "drop"
    """Two masks that people find equally good; keep makes a row with p_chosen 0.5."""
    on_dispute: Literal["soft", "majority", "drop"] = "soft"
    """Where people disagree. soft: p_chosen is the share that prefers it; majority; drop: no row."""
    wanted: Annotated[int, Range(ge=1)] = 1
    """People who vote on each comparison."""
    least_labelled: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Share of the comparisons that need their votes before the round trains."""

    @property
    def labelled_by(self) -> Literal["annotator", "people"]:
        """Who labels."""
        return "people" if self.annotator is None else "annotator"
