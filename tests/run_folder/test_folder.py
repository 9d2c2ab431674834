from __future__ import annotations

from dataclasses import replace

import pytest

from exptilt.errors import CheckpointError
from exptilt.losses import IPO
from exptilt.run_folder.file_names import CONFIG
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.ownership import LOCK_FILE, OWNER_FILE
from exptilt.runs.identity import changed_keys, identity, is_finished
from exptilt.settings.evaluation_settings import EvaluateConfig


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


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


def test_only_an_equal_recipe_finds_its_run_finished(finished):
    folder = RunFolder(finished.folder)
    assert is_finished(folder, finished)
    assert not is_finished(folder, replace(finished, seed=1))
    written = folder.recipe_text()
    lines = [line for line in written.splitlines() if not line.strip().startswith("min_margin")]
    assert len(lines) == len(written.splitlines()) - 1
    (folder.path / CONFIG).write_text("\n".join(lines))  # as a version wrote it that had no such key
    assert is_finished(folder, finished)
    assert not is_finished(folder, replace(finished, data=replace(finished.data, min_margin=1.0)))
    (folder.path / "config.yaml").unlink()
    assert not is_finished(folder, finished)


def test_an_earlier_run_is_moved_aside_whole_and_what_is_not_its_own_stays(finished):
    folder = RunFolder(finished.folder)
    names = {path.name for path in folder.path.iterdir()} - {OWNER_FILE, LOCK_FILE}
    (folder.path / "notes.md").write_text("mine")
    weights = (folder.model / "model.safetensors").read_bytes()
    first = folder.set_aside()
    assert {path.name for path in first.iterdir()} == names
    assert {path.name for path in folder.path.iterdir()} - {OWNER_FILE, LOCK_FILE} == {"notes.md", "earlier"}
    assert (first / "model" / "model.safetensors").read_bytes() == weights
    assert is_finished(RunFolder(first), finished)
    assert folder.set_aside() is None
    folder.write_text("config.yaml", "again")
    assert folder.set_aside().parent == first.parent
    assert len(list(first.parent.iterdir())) == 2


@pytest.mark.parametrize(("text", "wrong"), [("{", "is not valid JSON"), ("[1]", "is not a JSON object")])
def test_a_broken_manifest_is_one_line(tmp_path, text, wrong):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"run.json: {wrong}"):
        RunFolder(tmp_path).read("run.json")


def test_no_number_that_is_none_is_ever_written(tmp_path):
    with pytest.raises(ValueError, match="finite number"):
        RunFolder(tmp_path).update_manifest(seconds=float("nan"))
    assert RunFolder(tmp_path).read("run.json") == {}
