"""The start and the end of a run in its folder: claimed, moved aside or refused, and recorded whichever way it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from exptilt.errors import CheckpointError, TrainingError
from exptilt.losses import IPO
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.ownership import LOCK_FILE
from exptilt.runs.identity import is_finished
from exptilt.runs.run_inputs import inputs_of
from exptilt.runs.run_recipe import run_recipe
from exptilt.runs.run_start import started
from exptilt.settings.load import dump, load
from exptilt.settings.recipe import Recipe
from exptilt.training.callbacks.callback import Callback

QUIET = Console(quiet=True)


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


def begin(recipe):
    with started(recipe, RunFolder(recipe.folder), 1, QUIET):
        pass


def status_of(recipe):
    info = RunFolder(recipe.folder).read("run.json")
    return info["status"], info.get("reason")


def test_the_written_recipe_loads_equal(make_recipe):
    recipe = make_recipe("loss=ipo", "sft={}", "data.columns={prompt: question}", "seed=3")
    begin(recipe)
    assert load(Recipe, recipe.folder / "config.yaml") == recipe


def test_a_run_keeps_its_recipe_when_another_one_comes(finished):
    before = (finished.folder / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"another recipe \(different: loss.name, .*set another output"):
        begin(replace(finished, loss=IPO()))
    assert (finished.folder / "config.yaml").read_text() == before
    assert status_of(finished) == ("done", None)


def test_never_starts_in_a_folder_without_a_trace_of_the_run_before(finished):
    anew = with_train(replace(finished, loss=IPO(), sft=None), resume="never", max_steps=1)
    old = (finished.folder / "model" / "model.safetensors").read_bytes()
    lines = len((finished.folder / "metrics.jsonl").read_text().splitlines())
    told = Console(file=io.StringIO(), record=True, width=1000)
    run_recipe(anew, told, page=False)
    (aside,) = (finished.folder / "earlier").iterdir()
    assert str(aside) in told.export_text()
    assert is_finished(RunFolder(aside), finished)
    assert (aside / "model" / "model.safetensors").read_bytes() == old
    assert len((aside / "metrics.jsonl").read_text().splitlines()) == lines
    assert [path.name for path in (finished.folder / "checkpoints").iterdir()] == ["step-00000001"]
    assert {json.loads(line)["step"] for line in (finished.folder / "metrics.jsonl").read_text().splitlines()} == {0, 1}
    assert not (finished.folder / "sft").exists()
    run_recipe(anew, QUIET, page=False)  # also after a finished run of the very recipe
    assert len(list((finished.folder / "earlier").iterdir())) == 2


def test_a_users_own_config_yaml_is_not_overwritten(make_recipe):
    recipe = make_recipe()
    recipe.folder.mkdir()
    own = recipe.folder / "config.yaml"
    own.write_text("output: mine\n")
    with pytest.raises(CheckpointError, match=r"files that exptilt did not make \(config\.yaml\)"):
        begin(recipe)
    assert own.read_text() == "output: mine\n"
    assert [path.name for path in recipe.folder.iterdir()] == ["config.yaml"]


def test_a_folder_of_a_version_that_signed_nothing_is_known_by_its_records(finished):
    for name in (LOCK_FILE, ".exptilt-owner.json"):
        (finished.folder / name).unlink()
    begin(finished)
    assert json.loads((finished.folder / ".exptilt-owner.json").read_text())["kind"] == "run"


def test_every_path_that_a_recipe_reads_is_one_its_output_must_not_touch(make_recipe):
    recipe = make_recipe(
        "model={path: a, tokenizer: b}", "model.config=null", "reference.model=c", "adapter.path=d", "data.test_fraction=0", "data.test=e",
        "data.mixture=[{path: f}, {path: g}]",
    )  # fmt: skip
    paths = inputs_of(recipe)
    assert list(paths.values()) == ["a", "b", recipe.data.train, "e", "f", "g", "c", "d"]
    assert paths["data.mixture[1].path"] == "g"


class Fails(Callback):
    def __init__(self, error):
        self.error = error

    def after_step(self, progress, sums):
        if self.error is not None and progress.step == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TrainingError("the loss is a cow"), "failed", "the loss is a cow"),
        (ZeroDivisionError("by nought"), "failed", "ZeroDivisionError: by nought"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ],
)
def test_a_run_that_ends_badly_says_so_and_why_until_it_goes_on(make_recipe, error, status, reason):
    recipe = make_recipe("evaluate.num_prompts=0")
    with pytest.raises(type(error)):
        run_recipe(recipe, QUIET, page=False, callbacks=[Fails(error)])
    assert status_of(recipe) == (status, reason)
    run_recipe(recipe, QUIET, page=False, callbacks=[Fails(None)])
    assert status_of(recipe) == ("done", None)


@pytest.mark.parametrize("moment", ["open_session", "_measure", "write_card"])
def test_sigterm_before_and_after_the_loop_is_recorded_and_the_run_goes_on(make_recipe, monkeypatch, moment):
    def terminated(*_args, **_options):
        os.kill(os.getpid(), signal.SIGTERM)

    recipe = make_recipe("evaluate.num_prompts=0", "train.max_steps=2")
    with monkeypatch.context() as patched:
        patched.setattr(f"exptilt.runs.run_recipe.{moment}", terminated)
        with pytest.raises(SystemExit) as ended:
            run_recipe(recipe, QUIET, page=False)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    expected = ("done", None) if moment == "write_card" else ("stopped", "SIGTERM arrived")
    assert status_of(recipe) == expected
    run_recipe(recipe, QUIET, page=False)
    assert status_of(recipe) == ("done", None)


def test_a_supervised_phase_that_fails_fails_the_run(make_recipe):
    recipe = make_recipe("sft={optim: {learning_rate: 1e9}, train: {epochs: 9}}")
    with pytest.raises(TrainingError):
        run_recipe(recipe, QUIET, page=False)
    assert status_of(recipe)[0] == "failed"
    assert status_of(recipe)[1] == status_of(recipe.sft_recipe())[1]


def test_other_held_out_rows_are_another_run(make_recipe, write_rows, pairs):
    held_out = write_rows("held.jsonl", pairs(6, "she"))
    recipe = make_recipe("data.test_fraction=0", f"data.test={held_out}", "evaluate.num_prompts=0")
    with pytest.raises(ZeroDivisionError):
        run_recipe(with_train(recipe, save_every=1), QUIET, page=False, callbacks=[Fails(ZeroDivisionError())])
    write_rows("held.jsonl", pairs(6, "he"))
    with pytest.raises(CheckpointError, match="written with another held-out rows"):
        run_recipe(recipe, QUIET, page=False)


def train(recipe, path, **environment):
    path.write_text(dump(recipe))
    command = [sys.executable, "-m", "exptilt.cli", "train", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_of_two_starts_at_once_one_is_told_who_holds_the_folder_and_a_kill_gives_it_back(make_recipe, tmp_path):
    recipe = make_recipe("train.epochs=5000", "train.log_every=1", "evaluate.num_prompts=0")
    both = [train(replace(recipe, seed=seed), tmp_path / f"{seed}.yaml") for seed in (0, 1)]
    deadline = time.monotonic() + 200
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.05)
    (loser,) = (process for process in both if process.poll() is not None)
    (holder,) = (process for process in both if process.poll() is None)
    assert loser.returncode == 2
    message = loser.communicate()[1].strip()
    assert f"run: process {holder.pid} on " in message
    assert "works in it since 20" in message
    assert load(Recipe, recipe.folder / "config.yaml").seed == both.index(holder)
    with pytest.raises(CheckpointError, match=f"process {holder.pid} on"), claimed(recipe.folder, "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with claimed(recipe.folder, "run") as caution:
        assert caution is None
    assert json.loads(Path(recipe.folder, LOCK_FILE).read_text())["pid"] == os.getpid()
