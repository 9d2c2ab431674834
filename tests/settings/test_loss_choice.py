"""A choice of a loss says without torch what the loss itself would say."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import get_args

import jsonschema
import pytest

from exptilt import losses as L
from exptilt.errors import ConfigError
from exptilt.losses.from_choice import build_loss
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import dump, load, schema
from exptilt.settings.loss_choice import LossChoice, choice_of, policy_names, reward_model_names
from exptilt.settings.ranges import _constraints
from exptilt.settings.recipe import Recipe

POLICY = [member() for member in get_args(L.AnyLoss)]
REWARD = [member() for member in get_args(L.AnyRewardLoss)]
LOSSES = [*POLICY, *REWARD]
BARE = ["output=run", "model.path=m", "data.train=rows.jsonl"]


def test_every_loss_can_be_chosen_that_of_a_reward_model_too():
    assert policy_names() == tuple(loss.name for loss in POLICY)
    assert reward_model_names() == tuple(loss.name for loss in REWARD) == ("bradley_terry", "plackett_luce_reward")
    with pytest.raises(ConfigError, match=r"recipe: loss.name: unknown name 'bradley'; did you mean 'bradley_terry'"):
        LossChoice.of("bradley")


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_choice_and_its_loss_are_two_forms_of_one_thing(loss):
    choice = choice_of(loss)
    assert (choice.name, type(choice).__name__, as_dict(choice)) == (loss.name, type(loss).__name__, as_dict(loss))
    assert choice == LossChoice.of(loss.name)
    assert build_loss(choice) == build_loss(loss) == loss
    assert pickle.loads(pickle.dumps(choice)) == copy.deepcopy(choice) == choice


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_choice_refuses_what_its_loss_refuses_with_the_same_words(loss):
    """Ends of every range, a little beyond them, and what is no number at all."""
    tried = 0
    for field in dataclasses.fields(loss):
        if not isinstance(getattr(loss, field.name), float):
            continue
        for value in (-1e9, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 1e9, float("inf"), float("nan")):
            said = []
            for make in (lambda **fields: dataclasses.replace(loss, **fields), type(choice_of(loss))):
                try:
                    make(**{field.name: value})
                except ValueError as error:
                    said.append(str(error))
                else:
                    said.append("taken")
            assert said[0] == said[1]
            tried += said[0] != "taken"
    assert tried or not any(isinstance(getattr(loss, field.name), float) for field in dataclasses.fields(loss))


def test_every_number_of_a_loss_has_a_range():
    for cls in (*get_args(L.AnyLoss), L.Term):
        numbers = {field.name for field in dataclasses.fields(cls) if isinstance(field.default, float)}
        assert numbers <= {name for name, _ in _constraints(cls)}, cls


def test_a_recipe_takes_a_choice_a_loss_or_a_name_and_keeps_a_choice():
    recipe = load(Recipe, None, [*BARE, "loss=ipo", "loss.beta=0.3"])
    for given in (L.IPO(beta=0.3), LossChoice.of("ipo", beta=0.3), {"name": "ipo", "beta": 0.3}):
        assert dataclasses.replace(recipe, loss=given) == recipe
    assert dataclasses.replace(recipe, loss="ipo").loss == LossChoice.of("ipo")


def test_a_mixture_survives_writing_and_reading(tmp_path):
    mixture = L.Mixture(terms=(L.Term(loss=L.AlphaPO(alpha=-0.5), weight=2.0), L.Term(loss=L.BCO(threshold="zero"))))
    recipe = dataclasses.replace(load(Recipe, None, BARE), loss=mixture)
    path = tmp_path / "config.yaml"
    path.write_text(dump(recipe))
    assert build_loss(load(Recipe, path).loss) == mixture
    jsonschema.validate(as_dict(recipe), schema(Recipe))


def test_an_editor_refuses_what_the_command_line_refuses():
    described = schema(Recipe)
    good = as_dict(load(Recipe, None, BARE))
    for wrong in ({"beta": 0}, {"beta": "x"}, {"bet": 1}, {"label_smoothing": 0.5}, {"name": "dpoo"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | {"loss": good["loss"] | wrong}, described)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "recipe: loss: must hold keys of its own, got 3"),
        ({"name": "dpo", "bet": 1}, "recipe: loss.bet: unknown key; did you mean 'beta'?"),
        ({"name": "mixture", "terms": [{"loss": "kto"}]}, "recipe: loss.terms.0.loss.name: unknown name 'kto'; did you mean 'apo_down'?"),
        ({"name": "mixture", "terms": [{"loss": "mixture"}]}, "loss.terms.0.loss.name: unknown name 'mixture'"),
    ],
)  # fmt: skip
def test_a_mistake_in_python_reads_as_one_in_a_recipe(given, message):
    with pytest.raises(ConfigError) as caught:
        choice_of(given)
    assert message.split("; did you mean 'apo")[0] in str(caught.value)


@pytest.mark.parametrize("loss", [L.KTO(), L.Mixture()])
def test_only_losses_on_pairs_are_terms(loss):
    with pytest.raises(ValueError, match="loss must be a loss on pairs or an anchor"):
        L.Term(loss=loss)
