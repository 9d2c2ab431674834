from __future__ import annotations

from dataclasses import replace

import pytest

from exptilt.errors import CheckpointError
from exptilt.losses import IPO
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.identity import changed_keys, identity
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.load import load
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.recipe import Recipe


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


def test_the_written_recipe_loads_equal(make_recipe):
    recipe = make_recipe("loss=ipo", "sft={}", "data.columns={prompt: question}", "seed=3")
    folder = RunFolder(recipe.folder)
    folder.begin(recipe)
    assert load(Recipe, folder.path / "config.yaml") == recipe


def test_what_moves_no_weight_may_change_and_what_does_is_named(make_recipe):
    recipe = make_recipe()
    later = with_train(replace(recipe, output="elsewhere", evaluate=EvaluateConfig(num_prompts=9)), save_every=7)
    assert changed_keys(recipe, later) == []
    assert identity(recipe) == identity(later)
    assert changed_keys(recipe, with_train(recipe, epochs=2.0)) == ["train.epochs"]
    assert changed_keys(recipe, replace(recipe, loss=IPO(beta=0.1))) == [
        "loss.name",
        "loss.label_smoothing",
        "loss.length_normalized",
    ]
    phase = make_recipe("sft={train: {epochs: 2}}")
    assert changed_keys(phase, make_recipe("sft={train: {epochs: 2, log_every: 3}}")) == []
    assert changed_keys(phase, make_recipe("sft={train: {epochs: 3}}")) == ["sft.train.epochs"]
    assert changed_keys(recipe, phase) == ["sft"]


def test_a_run_may_be_moved_with_its_supervised_phase(make_recipe):
    def second_phase(output):
        recipe = make_recipe()
        return replace(recipe, output=output, model=replace(recipe.model, path=f"{output}/sft/model", config=None))

    assert identity(second_phase("here/run")) == identity(second_phase("there/run2"))
    assert identity(second_phase("here"))["model.path"] == '"sft/model"'


def test_a_run_keeps_its_recipe_when_another_one_comes(finished):
    folder = RunFolder(finished.folder)
    before = (folder.path / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"another recipe \(different: loss.name, .*set another output"):
        folder.begin(replace(finished, loss=IPO()))
    assert (folder.path / "config.yaml").read_text() == before
    assert folder.is_finished_run_of(finished)
    folder.begin(with_train(replace(finished, loss=IPO()), resume="never"))
    assert load(Recipe, folder.path / "config.yaml").loss == LossChoice.of("ipo")


def test_only_an_equal_recipe_finds_its_run_finished(finished):
    folder = RunFolder(finished.folder)
    assert folder.is_finished_run_of(finished)
    assert not folder.is_finished_run_of(replace(finished, seed=1))
    (folder.path / "config.yaml").unlink()
    assert not folder.is_finished_run_of(finished)


def test_a_users_own_config_yaml_is_not_overwritten(make_recipe):
    recipe = make_recipe()
    recipe.folder.mkdir()
    own = recipe.folder / "config.yaml"
    own.write_text("output: mine\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml that is not of a run"):
        RunFolder(recipe.folder).begin(recipe)
    assert own.read_text() == "output: mine\n"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_is_named(make_recipe, tmp_path, below):
    (tmp_path / "file").write_text("x")
    recipe = replace(make_recipe(), output=str(tmp_path / "file" / below))
    folder = RunFolder(recipe.folder)
    assert not folder.is_finished_run_of(recipe)
    with pytest.raises(CheckpointError, match="output must be a folder, and a file is in its way"):
        folder.begin(recipe)


@pytest.mark.parametrize(("text", "wrong"), [("{", "is not valid JSON"), ("[1]", "is not a JSON object")])
def test_a_broken_manifest_is_one_line(tmp_path, text, wrong):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"run.json: {wrong}"):
        RunFolder(tmp_path).read("run.json")


def test_no_number_that_is_none_is_ever_written(tmp_path):
    with pytest.raises(ValueError, match="finite number"):
        RunFolder(tmp_path).update_manifest(seconds=float("nan"))
    assert RunFolder(tmp_path).read("run.json") == {}
