"""A study in small: what is trained, what is measured, what a second call does."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from exptilt.cli import app
from exptilt.data.groups import Completion, Group
from exptilt.errors import ConfigError, DataError, ExptiltError
from exptilt.evaluation.frontier.best_of_n import kl_bound
from exptilt.evaluation.frontier.tilting import mixture_log_base
from exptilt.losses import DPO, IPO, SFT, Unlikelihood
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model
from exptilt.policies.scoring import score_all
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import as_dict
from exptilt.settings.grid_settings import GridRecipe, MeasureConfig, Method, OwnTask, WorldTask
from exptilt.settings.load import build, load
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.reward_settings import LengthConfig
from exptilt.settings.yaml_source import Source
from exptilt.studies.study import FrontierStudy, PolicyPoint
from exptilt.studies.tasks.own_task import find_function
from exptilt.verbs.frontier import Grid, frontier

QUIET = Console(quiet=True)
TASK = WorldTask(num_reviews=256, sft_epochs=1.0, width=16, num_layers=1, samples_per_prompt=2)
MEASURE = MeasureConfig(every=3, num_prompts=6, num_samples=4, pool=16, max_new_tokens=12)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EXPTILT_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(1)
    methods = [Method(loss=DPO(beta=0.05), learning_rate=5e-3), Method(loss=SFT())]
    folder = tmp_path_factory.mktemp("study")
    recipe = GridRecipe(output=str(folder / "grid"), task=TASK, methods=methods, measure=MEASURE)
    yield recipe, frontier(recipe, QUIET)
    patch.undo()


def test_every_third_checkpoint_and_the_end_of_every_run_is_measured(study):
    recipe, content = study
    by_run = {}
    for point in content["points"]:
        by_run.setdefault(point["name"], []).append((point["steps"], point["final"]))
    assert list(by_run) == ["DPO beta=0.05", "Preferred-FT"]
    run = json.loads((recipe.folder / "runs" / "dpo-beta-0.05-seed-0" / "run.json").read_text())
    last = run["steps"]
    expected = [(step, False) for step in range(3, last, 3)] + [(last, True)]
    assert by_run["DPO beta=0.05"] == expected


def test_a_point_is_the_mean_of_its_samples(study):
    recipe, content = study
    point = content["points"][0]
    kept = json.loads((recipe.folder / "points" / "dpo-beta-0.05-seed-0-step-00000003.json").read_text())
    assert point["kl"]["value"] == pytest.approx(np.mean(kept["kl"]))
    assert point["reward"]["value"] == pytest.approx(np.mean(kept["reward"]))
    pool = json.loads((recipe.folder / "reference.json").read_text())
    assert point["gain"]["value"] == pytest.approx(np.mean(kept["reward"]) - np.mean(pool["rewards"]))
    assert np.exp(pool["log_probs"]).max() <= 1


def test_the_optimum_stands_on_samples_of_both_and_their_weights_are_exact(study):
    recipe, content = study
    grid = Grid(recipe)
    proposals = grid._proposals()
    assert content["pooled"] == {"policies": list(proposals.names), "samples_each": 4}  # half of 16, over two
    assert content["log_m"] is None
    # The one pooled sample scored by hand: the reference's log-probability and the policy's, from their own weights.
    kept = {entry.title: grid._weights(entry)[-1] for entry in recipe.runs}
    draws = grid.pool.draws(grid.yardstick)
    assert (draws.prompt_index[17], draws.sample_index[17]) == (1, 1)
    ids = draws.ids[17]
    completion = Completion(ids=ids, counted=np.ones(len(ids), dtype=np.bool_))
    group = [Group(id="one", prompt=draws.prompts[1], completions=(completion,))]
    assert proposals.log_reference[1, 1] == pytest.approx(grid.pool.log_probs[1, 1], abs=1e-4)
    for at, name in enumerate(proposals.names):
        own = float(score_all(grid._policy(kept[name]), group)[0].sum()[0])
        assert proposals.log_policies[at, 1, 1] == pytest.approx(own, abs=1e-4)
        assert proposals.implicit_rewards()[name][1, 1] == pytest.approx(own - proposals.log_reference[1, 1], abs=1e-4)
    pooled = np.concatenate([grid.pool.rewards, proposals.rewards], axis=1)
    base = mixture_log_base(proposals.log_reference, proposals.log_policies, [16, 4, 4])
    start = (np.exp(base) * pooled).sum(axis=1).mean()
    assert content["reference_reward"]["value"] == pytest.approx(start, abs=1e-6)


def test_every_proposals_implicit_reward_is_a_proxy_that_ends_below_the_optimum(study):
    recipe, content = study
    assert [one["name"] for one in content["proxies"]] == [
        f"implicit reward of {name}" for name in content["pooled"]["policies"]
    ]
    pool = json.loads((recipe.folder / "reference.json").read_text())
    for one in content["proxies"]:
        assert one["kl"] == sorted(one["kl"])
        assert max(one["gold"]) == one["best"]["value"] <= np.max(pool["rewards"], axis=1).mean()
        assert one["gold"][0] == pytest.approx(np.mean(pool["rewards"]), abs=0.1)


def test_a_finished_run_keeps_weights_and_one_checkpoint_only(study):
    recipe, _ = study
    for run in (recipe.folder / "runs").iterdir():
        assert len(list((run / "checkpoints").glob("step-*"))) == 1
        kept = sorted(path.name for path in (run / "weights").iterdir())
        assert kept[0] == "step-00000003.pt"
        assert len(kept) > 1
        grid = Grid(recipe)
        last = grid._policy(run / "weights" / kept[-1])
        saved = load_model(ModelConfig(path=str(run / "model")))
        assert fingerprint(last) == fingerprint(saved)


def test_best_of_n_has_its_own_kl_below_the_bound(study):
    _, content = study
    assert [best["n"] for best in content["best_of_n"]] == [2, 4, 8]
    for best in content["best_of_n"]:
        assert 0 < best["kl"] <= best["kl_bound"] == kl_bound(best["n"])


def test_the_best_of_n_is_told_for_every_n_by_the_true_reward_and_by_each_proxy(study):
    recipe, content = study
    true, *others = content["best_of_n_by"]
    assert true["is_true"]
    assert [one["name"] for one in others] == [one["name"] for one in content["proxies"]]
    assert {len(one[column]) for one in content["best_of_n_by"] for column in ("gold", "kl", "chosen_by")} == {16}
    assert true["gold"] == pytest.approx(true["chosen_by"])
    assert [true["gold"][best["n"] - 1] for best in content["best_of_n"]] == pytest.approx(
        [best["reward"]["value"] for best in content["best_of_n"]]
    )
    pool = np.array(json.loads((recipe.folder / "reference.json").read_text())["rewards"])
    implicit = Grid(recipe)._proposals().implicit_rewards()
    for one in others:
        picks = implicit[one["name"].removeprefix("implicit reward of ")]
        assert one["gold"][0] == pytest.approx(pool.mean())
        # The best of all sixteen is the one with the highest proxy; equal ones share.
        at_top = picks == picks.max(axis=1, keepdims=True)
        assert one["gold"][-1] == pytest.approx(((pool * at_top).sum(axis=1) / at_top.sum(axis=1)).mean())


def test_a_second_call_only_reads_and_a_lost_measurement_is_made_again_the_same(study, monkeypatch):
    recipe, content = study
    lost = recipe.folder / "points" / "preferred-ft-seed-0-step-00000003.json"
    lost.unlink()
    trained = []
    monkeypatch.setattr("exptilt.runs.run_recipe.Session", lambda *given: trained.append(given))
    outcome = CliRunner().invoke(app, content["command"].split()[1:])
    assert outcome.exit_code == 0, outcome.output
    assert "Preferred-FT" in outcome.output
    assert json.loads((recipe.folder / "frontier.json").read_text()) == content
    assert lost.exists()
    assert trained == []


def test_another_sampling_law_is_measured_anew(study):
    recipe, _ = study
    other = Grid(replace(recipe, measure=replace(MEASURE, max_new_tokens=6)))
    same = Grid(recipe)
    assert other._digest(1) != same._digest(1)
    assert same._digest(1) == Grid(recipe)._digest(1)


def test_numbers_against_another_reference_are_refused(study):
    recipe, content = study
    grid = Grid(recipe)
    placed = FrontierStudy(grid.pool, "sentiment")
    found = grid._measurement_of(recipe.runs[0], grid._weights(recipe.runs[0])[-1])
    point = PolicyPoint("dpo", "DPO", 0.05, 1, run="x")
    with pytest.raises(ValueError, match="compares against reference"):
        placed.add(point, found, replace(grid.yardstick.provenance, reference="another"))
    with pytest.raises(ValueError, match="max_new_tokens 12 and 6"):
        placed.add(point, found, replace(grid.yardstick.provenance, law=SamplingLaw(max_new_tokens=6, eos_ids=(2,))))
    placed.add(point, found, grid.yardstick.provenance)
    assert placed.points[0].kl.as_dict() == next(one["kl"] for one in content["points"] if one["final"])


def test_a_folder_of_another_study_is_refused(study):
    recipe, _ = study
    with pytest.raises(ConfigError, match="holds a study with another seed"):
        frontier(replace(recipe, seed=1), QUIET)


def test_a_run_in_a_process_of_its_own_is_the_run_in_this_one(study, tmp_path):
    recipe, content = study
    again = recipe.folder / "runs" / "dpo-beta-0.05-seed-0"
    again.rename(tmp_path / "kept")
    found = frontier(replace(recipe, jobs=2, methods=recipe.methods[:1]), QUIET)
    assert (again / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "kept" / "model" / "model.safetensors"
    ).read_bytes()
    before = [point for point in content["points"] if point["name"] == "DPO beta=0.05"]
    names = ("name", "steps", "kl", "kl_check", "reward", "gain", "length", "ended")  # the rest is against the optimum
    assert [[one[name] for name in names] for one in found["points"]] == [
        [one[name] for name in names] for one in before
    ]


def test_runs_that_fail_in_their_processes_are_named(study, monkeypatch):
    recipe, _ = study
    started = []

    def fail(command, **settings):
        started.append(command[-1])
        return subprocess.CompletedProcess(command, returncode=2 if command[-1].startswith("dpo") else 0)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ExptiltError, match="1 of 2 runs failed, see above: DPO"):
        frontier(replace(recipe, jobs=2), QUIET)
    assert sorted(started) == ["dpo-beta-0.05-seed-0", "preferred-ft-seed-0"]


def test_your_own_model_pairs_and_reward(study, tmp_path, monkeypatch):
    recipe, _ = study
    (tmp_path / "my_reward.py").write_text(
        "def goodness(prompt, completion):\n    return float(len(completion.split()))\n"
        "def shortness(prompt, completion):\n    return -float(len(completion.split()))\n"
        "def flat(prompt, completion):\n    return 1.0\n"
        "def broken(prompt, completion):\n    return float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    bench = Grid(recipe).bench
    task = OwnTask(name="own", model=bench.reference, data=bench.data, reward="my_reward:goodness")
    own = replace(recipe, output=str(tmp_path / "own"), task=task, methods=recipe.methods[1:])
    own = replace(own, measure=MeasureConfig(num_prompts=4, num_samples=2, pool=8, max_new_tokens=6))
    content = frontier(replace(own, measure=replace(own.measure, proxy="my_reward:shortness", proposals=0)), QUIET)
    assert content["pooled"] is None
    assert content["log_m"] == pytest.approx(np.log(8))
    assert [one["name"] for one in content["proxies"]] == ["shortness"]
    assert (
        content["proxies"][0]["end"]["value"] < content["reference_reward"]["value"]
    )  # the shortest have fewest words
    with pytest.raises(DataError, match="proxy 'flat': the reward does not vary within any prompt"):
        frontier(replace(own, measure=replace(own.measure, proxy="my_reward:flat", proposals=0)), QUIET)
    alone = replace(own, output=str(tmp_path / "alone"), methods=[])  # no training at all: what samples show
    alone = replace(alone, measure=replace(own.measure, proxy=LengthConfig(unit="characters")))
    shown = frontier(alone, QUIET)
    assert "points" not in shown or not shown["points"]
    assert [one["name"] for one in shown["best_of_n_by"]] == ["goodness", "length"]
    assert shown["best_of_n_by"][1]["gold"][-1] > shown["best_of_n_by"][1]["gold"][0]  # more characters, more words
    by_kind = replace(alone, output=str(tmp_path / "kind"), task=replace(task, reward=LengthConfig(unit="words")))
    assert frontier(by_kind, QUIET)["reference_reward"]["value"] == shown["reference_reward"]["value"]
    assert content["reward_name"] == "goodness"
    assert len(content["points"]) == 1
    assert 0 < content["reference_reward"]["value"] <= 6
    bad = replace(own, output=str(tmp_path / "bad"), task=replace(task, reward="my_reward:broken"))
    with pytest.raises(DataError, match="not finite"):
        _ = Grid(bad).pool


@pytest.mark.parametrize("name", ["no_colon", "no.such.module:f", "math:no_such", "math:pi"])
def test_a_reward_that_is_no_function_is_named(name):
    with pytest.raises(ConfigError, match=r"^reward"):
        find_function(name)


def test_titles_and_folders_follow_from_the_objective():
    losses = [DPO(beta=0.05), Unlikelihood(alpha=0.5), SFT(), IPO(beta=1.0), DPO(beta=1.0, label_smoothing=0.1)]
    grid = GridRecipe(output="x", task=TASK, methods=[Method(loss=loss) for loss in losses[:4]], seeds=[0, 7])
    assert [entry.title for entry in grid.runs][:3] == [
        "DPO beta=0.05 seed=0",
        "DPO beta=0.05 seed=7",
        "Unlikelihood alpha=0.5 seed=0",
    ]
    assert [entry.slug for entry in grid.runs][4] == "preferred-ft-seed-0"
    assert Method(loss=losses[4]).title == "DPO beta=1 label_smoothing=0.1"
    with pytest.raises(ValueError, match="one name"):
        GridRecipe(output="x", task=TASK, methods=[Method(loss=DPO()), Method(loss=DPO(), learning_rate=1e-4)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs"),
        ({"seeds": []}, "seeds"),
        ({"measure": {"pool": 1}}, "pool"),
        ({"seeds": [1, 1]}, "seeds"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(changes, message):
    values = as_dict(GridRecipe(output="x", task=TASK, methods=[Method(loss=SFT())])) | changes
    with pytest.raises(ConfigError, match=message):
        build(GridRecipe, Source(label="test", values=values))


def test_the_papers_sweep_is_in_both_recipes():
    for name in ("world", "imdb"):
        recipe = load(GridRecipe, f"recipes/frontier-{name}.yaml")
        told = [entry.method.title for entry in recipe.runs]
        assert told == [
            *(f"DPO beta={beta}" for beta in ("0.05", "0.1", "1", "5")),
            *(f"Unlikelihood alpha={alpha}" for alpha in ("0.05", "0.1", "0.5", "1")),
            "Preferred-FT",
        ]
        assert recipe.task.name == name
        assert recipe.measure.every > 0
