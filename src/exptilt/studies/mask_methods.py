"""Anchors and rivals on masks, each through rounds of its own: the same start, images and number of comparisons for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import Console

from exptilt.reports.tables.mask_table import mask_evaluation_of
from exptilt.run_folder.mask_evaluation_record import TRUTH, MaskMeasures
from exptilt.runs.mask_rivals import rivals_of_rounds, with_bias_alone
from exptilt.runs.mask_run import run_masks
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.mask_settings import MaskRecipe


@dataclass(frozen=True)
class MaskMethod:
    """One way to learn from the same comparisons."""

    name: str
    loss: Any
    """As in a recipe."""
    coin: bool = False
    """Whether labels are a coin's."""
    trains: Literal["all", "bias"] = "all"
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
    MaskMethod("true masks", NLL, truth=True),
)
"""Anchors and rivals, by what they are called in tables."""


def compare_methods(
    recipe: MaskRecipe, methods: Sequence[MaskMethod] = METHODS, console: Console | None = None
) -> list[MaskMeasures]:
    """Take every method through the rounds of a recipe, each in a folder of its own, and measure its last segmenter.

    Args:
        recipe: has `rounds` with a simulated annotator, and `data.test` with true masks; its loss is replaced.
        methods: what is compared.
        console: for messages; default, none.

    Returns:
        The start first, then the methods in order.
    """
    quiet = console or Console(quiet=True)
    found: list[MaskMeasures] = []
    for method in methods:
        own = _recipe_of(recipe, method)
        outcome = (run_masks if own.rounds is None else run_rounds)(own, quiet, page=False)
        measured = mask_evaluation_of(outcome.folder)
        if measured is None:
            raise ValueError("data.test is missing, so there is nothing to compare by")
        found = found or [measured.reference.updated(name="start")]
        found.append(measured.policy.updated(name=method.name))
    return found


def _recipe_of(recipe: MaskRecipe, method: MaskMethod) -> MaskRecipe:
    """The recipe with the method's loss, labels and weights, in a folder of its own."""
    if recipe.rounds is None or recipe.rounds.annotator is None:
        raise ValueError("methods are compared over rounds with a simulated annotator")
    name = method.name.replace(" ", "-").replace("+", "and").replace(".", "")
    own = replace(recipe, output=str(recipe.folder / name), evaluate=replace(recipe.evaluate, pictures=0, rivals=False))
    if method.truth:
        own.folder.mkdir(parents=True, exist_ok=True)
        true = rivals_of_rounds(own)[TRUTH]
        return replace(true, data=replace(true.data, test=recipe.data.test))
    annotator = replace(recipe.rounds.annotator, flip=0.5) if method.coin else recipe.rounds.annotator
    own = with_bias_alone(own) if method.trains == "bias" else own
    return replace(
        own,
        loss=LossChoice.of(**{("loss" if key == "name" else key): value for key, value in method.loss.items()}),
        rounds=replace(recipe.rounds, annotator=annotator),
        allow_unbounded=True,
    )
