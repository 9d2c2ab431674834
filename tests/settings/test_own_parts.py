"""Parts of your own in a recipe: read, written, compared, and refused with a line that says what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import jsonschema
import pytest

from exptilt import losses as L
from exptilt.errors import ConfigError
from exptilt.losses.from_choice import build_loss
from exptilt.runs.identity import changed_keys
from exptilt.settings.declaration import as_dict, config
from exptilt.settings.grid_settings import GridRecipe, Method
from exptilt.settings.load import dump, load, schema
from exptilt.settings.loss_choice import choice_of
from exptilt.settings.own_parts import import_object
from exptilt.settings.recipe import Recipe

BARE = ["output=run", "model.path=m", "data.train=rows.jsonl"]
SOURCE = """
from dataclasses import dataclass
from typing import ClassVar, Literal
from torch.nn.functional import softplus
from exptilt.losses import Loss
from exptilt.kinds import PAIR, REWARD
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.training.callbacks.callback import Callback
from exptilt.types import PairLoss


@config
class Mine(Loss):
    name: Literal["mine"] = "mine"
    beta: Positive = 0.1
    shift: float = 0.0
    kind: ClassVar = PAIR

    def __call__(self, policy, reference):
        chosen, rejected = policy.chosen.sum() - reference.chosen.sum(), policy.rejected.sum() - reference.rejected.sum()
        z = self.beta * (chosen - rejected) - self.shift
        return PairLoss(softplus(-z), self.beta * chosen.detach(), self.beta * rejected.detach())


class OfRewards(Mine):
    kind = REWARD


@dataclass(frozen=True)
class Count(Callback):
    limit: int = 3


class Plain(Callback):
    def __init__(self, factor=2):
        self.factor = factor


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of parts; its name is new in each test, as Python imports a name once."""
    name = f"parts_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return name


@config
class Here(L.Loss):
    """A loss of this module."""

    name: str = "here"
    weight: float = 2.0
    kind = L.DPO.kind

    def __call__(self, policy, reference):
        return L.DPO()(policy, reference)


def test_a_recipe_imports_a_loss_with_its_settings_and_writes_what_it_reads(own, tmp_path):
    recipe = load(Recipe, None, [*BARE, f"loss={{import: {own}:Mine, shift: 0.3}}"])
    assert (recipe.loss.name, recipe.loss.kind, recipe.loss.beta) == ("mine", "pair", 0.1)
    assert build_loss(recipe.loss) == import_object(f"{own}:Mine", "import")(shift=0.3)
    written = as_dict(recipe)["loss"]
    digest = written.pop("source")
    assert written == {"import": f"{own}:Mine", "name": "mine", "beta": 0.1, "shift": 0.3}
    assert len(digest) == 16
    (tmp_path / "config.yaml").write_text(dump(recipe))
    again = load(Recipe, tmp_path / "config.yaml")
    assert again == recipe
    assert hash(again.loss) == hash(recipe.loss)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    jsonschema.validate(as_dict(recipe), schema(Recipe))


def test_an_override_of_a_part_is_one_of_its_settings(own, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"output: run\nmodel: {{path: m}}\ndata: {{train: x}}\nloss:\n  import: {own}:Mine\n"
    )
    assert load(Recipe, tmp_path / "r.yaml", ["loss.shift=0.5"]).loss.setting("shift") == 0.5
    assert load(Recipe, tmp_path / "r.yaml", ["loss=ipo"]).loss.name == "ipo"


def test_an_object_in_python_is_the_same_as_its_import_path():
    recipe = load(Recipe, None, BARE)
    given = dataclasses.replace(recipe, loss=Here(weight=3.0))
    named = dataclasses.replace(recipe, loss={"import": f"{__name__}:Here", "weight": 3.0})
    assert given == named
    assert build_loss(given.loss) == Here(weight=3.0)
    mixed = choice_of(L.Mixture(terms=(L.Term(loss=L.DPO()), L.Term(loss=Here(), weight=0.5))))
    assert build_loss(mixed) == L.Mixture(terms=(L.Term(loss=L.DPO()), L.Term(loss=Here(), weight=0.5)))


def test_changed_source_is_another_recipe_and_is_not_built(own, tmp_path):
    before = load(Recipe, None, [*BARE, f"loss={{import: {own}:Mine}}"])
    with (tmp_path / f"{own}.py").open("a") as file:
        file.write("# another formula\n")
    after = load(Recipe, None, [*BARE, f"loss={{import: {own}:Mine}}"])
    assert changed_keys(before, after) == ["loss.source"]
    assert build_loss(after.loss).name == "mine"
    with pytest.raises(ConfigError, match=rf"loss: the source of {own}:Mine has changed .*loss.source=none"):
        build_loss(before.loss)
    (tmp_path / "config.yaml").write_text(dump(before))
    assert load(Recipe, tmp_path / "config.yaml", ["loss.source=none"]).loss == after.loss


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{import: OWN:Mine, shfit: 1}", "command line: loss.shfit: unknown key; did you mean 'shift'?"),
        ("{import: OWN:Mine, beta: -1}", "command line: loss: beta must be > 0 and finite, got -1.0"),
        ("{import: OWN:Mine, beta: x}", "loss.beta: must be a valid number, got 'x'"),
        ("{import: OWN:Mien}", "loss: import OWN:Mien: module 'OWN' has no 'Mien'"),
        ("{import: nowhere.at_all:Mine}", "no module named 'nowhere', neither installed nor in the current folder"),
        ("{import: OWN}", "loss: import must be `package.module:Name`, got 'OWN'"),
        ("{import: 3}", "loss: import must be `package.module:Name`, got 3"),
        ("{import: OWN:Plain}", "loss: import OWN:Plain: is no loss (no kind); subclass exptilt.losses.Loss"),
        ("{import: OWN:number, beta: 1}", "import OWN:number: is no class, so it takes no settings; got beta"),
        ("{name: mixture, terms: [{loss: {import: OWN:OfRewards}}]}", "its kind is reward; here a loss is of kind pair"),
        ("{name: mixture, terms: [{loss: {import: OWN:Plain}}]}", "loss.terms.0.loss: import OWN:Plain: is no loss"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_place(own, loss, message):
    with pytest.raises(ConfigError) as caught:
        load(Recipe, None, [*BARE, f"loss={loss.replace('OWN', own)}"])
    assert message.replace("OWN", own) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_is_one_line(own, tmp_path):
    (tmp_path / f"{own}_bad.py").write_text("raise RuntimeError('broken\\nbadly')")
    with pytest.raises(ConfigError, match=r"cannot be imported: RuntimeError: broken badly"):
        load(Recipe, None, [*BARE, f"loss={{import: {own}_bad:Mine}}"])


def test_a_local_class_is_refused_as_nobody_could_read_the_run():
    @config
    class Inside(Here):
        pass

    with pytest.raises(ConfigError, match="loss: Inside is made inside a function or class; move it to the top"):
        choice_of(Inside())


def test_callbacks_are_imported_the_same_way(own):
    recipe = load(
        Recipe, None, [*BARE, f"train.callbacks=[{{import: {own}:Count, limit: 5}}, {{import: {own}:Plain}}]"]
    )
    count, plain = (part.make() for part in recipe.train.callbacks)
    assert (count.limit, plain.factor) == (5, 2)
    assert recipe.train.callbacks[0].make() is not count or count == type(count)(5)
    assert dataclasses.replace(recipe.train, callbacks=[count]).callbacks == recipe.train.callbacks[:1]
    jsonschema.validate(as_dict(recipe), schema(Recipe))
    for wrong, message in (
        (f"{{import: {own}:Mine}}", "is no callback; it has no on_start"),
        (f"{{import: {own}:Count, limt: 5}}", "limt: unknown key; did you mean 'limit'?"),
        ("{limit: 5}", "import is missing"),
        ("tensorboard", "must hold keys of its own"),
    ):
        with pytest.raises(ConfigError, match=r"train\.callbacks") as caught:
            load(Recipe, None, [*BARE, f"train.callbacks=[{wrong}]"])
        assert message in str(caught.value)


def test_a_study_names_its_own_losses_by_class_and_settings(own):
    methods = [Method(loss={"import": f"{own}:Mine", "shift": 0.5}), Method(loss="dpo")]
    assert [method.title for method in methods] == ["Mine beta=0.1 shift=0.5", "DPO beta=0.1"]
    study = GridRecipe(output="study", task={"name": "world"}, methods=methods)  # type: ignore[arg-type]
    assert [run.slug for run in study.runs] == ["mine-beta-0.1-shift-0.5-seed-0", "dpo-beta-0.1-seed-0"]


def test_config_says_how_a_part_of_ones_own_is_named(tmp_path):
    words = [sys.executable, "-m", "exptilt", "config"]
    shown = subprocess.run([*words, "loss"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "import: package.module:MyLoss" in " ".join(shown.split())
    shown = subprocess.run([*words, "loss.import"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "package.module:Name" in shown


def test_a_loss_of_your_own_may_train_a_reward_model(own):
    recipe = load(Recipe, None, [*BARE, f"loss={{import: {own}:OfRewards}}"])
    assert recipe.loss.kind == "reward"
    with pytest.raises(
        ConfigError, match=r"train.eval_samples belongs to policies, and loss mine trains a reward model"
    ):
        load(Recipe, None, [*BARE, f"loss={{import: {own}:OfRewards}}", "train.eval_samples=2"])
