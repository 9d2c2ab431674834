from __future__ import annotations

from dataclasses import replace

import pytest

from exptilt.runs.identity import defaults_of, identity
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe

BARE = ["output=o", "data.train=t.jsonl"]


@pytest.mark.parametrize("loss", ["dpo", "simpo", "kto", "mpo"])
def test_every_key_that_has_a_default_is_known_by_it(loss):
    """A recipe that sets nothing but what it must has the default everywhere else."""
    recipe = load(Recipe, None, [*BARE, "model.path=m", f"loss={loss}"])
    written, defaults = identity(recipe), defaults_of(recipe)
    given = {"data.train", "model.path", "loss.name"}
    assert {key for key in written if key not in defaults} <= given
    assert {key: value for key, value in written.items() if defaults.get(key, value) != value}.keys() <= given


def test_defaults_do_not_follow_what_a_recipe_sets():
    plain = load(Recipe, None, [*BARE, "model.path=m"])
    other = replace(
        plain, seed=3, optim=replace(plain.optim, learning_rate=1.0), data=replace(plain.data, max_tokens=5)
    )
    assert defaults_of(other) == defaults_of(plain)
    assert (defaults_of(plain)["data.max_tokens"], defaults_of(plain)["loss.beta"]) == ("null", "0.1")


def test_recipes_of_masks_have_defaults_too():
    recipe = load(MaskRecipe, None, ["output=o", "segmenter.path=s", "data.train=t.jsonl"])
    assert defaults_of(recipe)["data.test_fraction"] == "0.0"
