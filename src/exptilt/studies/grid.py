"""The bench of a study, made from its settings, and the law its policies are sampled by."""

from __future__ import annotations

from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.grid_settings import GridRecipe, ImdbTask, MeasureConfig, WorldTask
from exptilt.studies.labels_by_reward import Bench
from exptilt.studies.tasks.imdb_task import prepare_imdb
from exptilt.studies.tasks.own_task import prepare_own
from exptilt.studies.tasks.reviews_task import prepare_world


def law_of(measure: MeasureConfig) -> SamplingLaw:
    """The law of a study's samples, temperature 1 without truncation: only then a KL of full distributions is theirs."""
    return SamplingLaw(max_new_tokens=measure.max_new_tokens)


def bench_of(recipe: GridRecipe) -> Bench:
    """Make reference, preferences, prompts and reward of a study; existing files are kept."""
    folder, task, measure = recipe.folder, recipe.task, recipe.measure
    law = law_of(measure)
    if isinstance(task, WorldTask):
        return prepare_world(task, folder, recipe.seed, law, measure.num_prompts)
    if isinstance(task, ImdbTask):
        return prepare_imdb(task, folder, recipe.seed, law, measure.num_prompts)
    return prepare_own(task, law, measure.num_prompts)
