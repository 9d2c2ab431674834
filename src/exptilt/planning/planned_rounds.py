"""One round of a recipe with `rounds`, planned before its rows exist: rows of the greatest number and length stand for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from exptilt.data.written_rows import Candidate, preference_row
from exptilt.disk import write_lines
from exptilt.runs.rounds.round_recipe import begun_with, prompt_data, recipe_of_round, rounds_of
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.sampling.local_sampler import ids_of_prompts
from exptilt.sampling.prompts_to_sample import AskedPrompt, prompts_of
from exptilt.settings.recipe import Recipe


@contextmanager
def planned_round(recipe: Recipe) -> Iterator[Recipe]:
    """The first round as a recipe that can be planned, for as long as the block runs; it keeps `rounds`.

    Its rows are as many as the round can have, and each completion has `rounds.law.max_new_tokens` tokens, so that memory and
    time are the most there can be.
    """
    rounds = rounds_of(recipe)
    tokenizer = find_tokenizer(recipe.model, recipe.data)
    asked = prompts_of(prompt_data(recipe)).prompts[: rounds.prompts_per_round]
    with TemporaryDirectory(prefix="exptilt-plan-") as folder:
        rows = Path(folder) / "rows.jsonl"
        write_lines(rows, _stand_in_rows(recipe, tokenizer, asked))
        first = recipe_of_round(recipe, 1)
        # Where the supervised phase makes the model, its architecture is planned, since its weights are not there yet.
        model = recipe.model if recipe.sft is not None else begun_with(recipe, 1).model
        yield replace(
            first,
            output=recipe.output,
            model=model,
            rounds=rounds,
            data=replace(first.data, train=str(rows), on_too_long="drop"),
        )


def _stand_in_rows(recipe: Recipe, tokenizer: Any, asked: Sequence[AskedPrompt]) -> Iterator[dict[str, Any]]:
    rounds, rng = rounds_of(recipe), np.random.default_rng(0)
    special = set(tokenizer.all_special_ids)
    plain = np.array([token for token in range(len(tokenizer)) if token not in special])
    for one, ids in zip(asked, ids_of_prompts(tokenizer, asked, prompt_data(recipe)), strict=True):
        for _ in range(rounds.pairs_of_a_prompt):
            sides = rng.choice(plain, size=(2, rounds.law.max_new_tokens))
            chosen, rejected = (
                Candidate(
                    prompt=one.prompt,
                    text=str(tokenizer.decode(side.tolist(), skip_special_tokens=True)),
                    prompt_ids=np.asarray(ids).tolist(),
                    ids=side.tolist(),
                    template_args=one.template_args,
                )
                for side in sides
            )
            yield preference_row(chosen, rejected, p_chosen=1.0)
