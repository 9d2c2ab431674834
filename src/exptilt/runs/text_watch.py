"""What the callbacks of a run of texts read: facts for guard rails, samples while it trains, and its speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from exptilt.data.groups import Group
from exptilt.kinds import ROLLOUT
from exptilt.losses.at_zero import loss_at_zero
from exptilt.losses.from_choice import build_loss
from exptilt.policies.turn_ends import turn_ends
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_models import Models
from exptilt.sampling.draws import Draws, distinct_prompts, draw, room_for
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.recipe import Recipe
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.sample_files import SampleFiles
from exptilt.training.guards.cautions import Facts
from exptilt.training.sums import Sums

_USUAL_RATE, _USUAL_RATE_OF_ADAPTERS = 2e-5, 5e-4
"""The largest learning rates of published runs that train all weights, and of those that train an adapter."""


def text_facts(recipe: Recipe, models: Models, num_rows: int, contradicting: int) -> Facts:
    """The facts that guards need; with dropout the first losses scatter, and with another reference they begin anywhere.

    Args:
        recipe: of the run.
        models: of the run.
        num_rows: rows that are trained on.
        contradicting: those of them whose label is the opposite of another row's.
    """
    loss = build_loss(recipe.loss)
    own = recipe.reference.model is None
    return Facts(
        loss.name,
        beta=number_or_none(getattr(loss, "beta", None)),
        usual_beta=number_or_none(getattr(type(loss), "beta", None)),
        learning_rate=recipe.optim.learning_rate,
        usual_rate=_USUAL_RATE if recipe.adapter is None else _USUAL_RATE_OF_ADAPTERS,
        max_grad_norm=recipe.optim.max_grad_norm,
        start_loss=loss_at_zero(loss) if own and not recipe.model.dropout else None,
        own_reference=own,
        has_level=loss.kind != ROLLOUT,
        vocabulary=getattr(models.policy.config.get_text_config(), "vocab_size", None),
        rows=None if recipe.rollout is not None else num_rows,  # prompts may be asked again and again
        contradicting=contradicting,
    )


def number_or_none(given: Any) -> float | None:
    """A setting that is a plain number; objectives of users may have others."""
    return float(given) if isinstance(given, int | float) else None


def step_samples(
    recipe: Recipe, models: Models, tokenizer: Any, held_out: Sequence[Group], folder: RunFolder
) -> Callable[[Progress], Sums] | None:
    """Completions of held-out prompts at every evaluation; None where the recipe asks for none."""
    policy, held = models.policy, models.held
    if not recipe.train.eval_samples:
        return None
    prompts = distinct_prompts(held_out)[: recipe.train.eval_samples]
    law = SamplingLaw(
        max_new_tokens=room_for(policy, prompts, recipe.evaluate.max_new_tokens),
        eos_ids=turn_ends(tokenizer, policy, held_out),
    )

    def drawn() -> Draws:
        draws = draw(policy, tokenizer, prompts, law=law, seed=recipe.seed)
        return draws if held is None else draws.compared(policy, held.model)

    return SampleFiles(folder.write_lines, drawn, tokenizer)
