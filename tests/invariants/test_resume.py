"""Promise 4: an interrupted run is the same run, wherever it is cut; on a CPU, bit for bit.

Processes are forked from a server that has torch in memory already, so that killing one of them costs no import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from exptilt.errors import CheckpointError
from exptilt.losses import BCO, DPO, KTO, NLL, PPO, RLOO, XPO, BradleyTerry, Mixture, PlackettLuceReward, SimPO, Term
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.load import dump
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import LengthConfig
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.rounds_settings import RoundLaw
from exptilt.settings.training_settings import ParallelConfig
from exptilt.training.checkpoints.choice import newest_checkpoint

QUIET = Console(quiet=True)
SMALL = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 265, "max_positions": 96}
DROPPED = {"model": {"dropout": 0.1}, "small": {"architecture": "gpt2"}}
SCRIPT = """
import os, signal, sys
import torch
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe
from exptilt.runs.run_recipe import run_recipe
from rich.console import Console

torch.set_num_threads(1)
os.environ.update(ENVIRONMENT)
real, seen = os.replace, 0

def fatal(source, target):
    global seen
    if "checkpoints" in str(target):
        seen += 1
        if seen == abs(PLACE):
            if PLACE < 0:
                real(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = fatal
run_recipe(load(Recipe, RECIPE), Console(quiet=True), page=False)
"""

COMMAND = """
import os, sys
import torch

os.environ["EXPTILT_CACHE"] = CACHE
torch.set_num_threads(1)
sys.argv = WORDS
sys.stdout = sys.stderr = open(SAID, "w", buffering=1)
from exptilt.cli import main

main()
"""


@pytest.fixture(scope="module")
def forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exptilt.runs.run_recipe", "peft", "torch.distributed.fsdp"])
    return context


@pytest.fixture
def spawn(forks: Any, tmp_path: Path) -> Callable[..., Any]:
    """Start a run in a process of its own; `place` n kills it at the n-th checkpoint's rename, -n right after it."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)

    def start(recipe: Recipe, place: int = 0, **environment: str) -> Any:
        path = tmp_path / f"recipe-{os.urandom(4).hex()}.yaml"
        path.write_text(dump(recipe))
        # The server they are forked from may have been started before this test had a cache of its own.
        ours = {"EXPTILT_CACHE": os.environ["EXPTILT_CACHE"], **environment}
        names = {"RECIPE": str(path), "PLACE": place, "ENVIRONMENT": ours}
        process = forks.Process(target=runpy.run_path, args=(str(script), names))
        process.start()
        return process

    return start


def around_a_base(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An adapter needs a base on disk; the same settings with one."""
    if settings.get("adapter") is None:
        return settings
    made = ModelConfig(config=SmallModel(**{**SMALL, **settings["small"]}))
    tokenizer = train_tokenizer(["a good film"], SMALL["vocab_size"])
    save_model(load_model(made, tokenizer), tokenizer, folder)
    return {**settings, "model": {**settings["model"], "path": str(folder), "config": None}}


def weights_of(recipe: Recipe) -> dict[str, Any]:
    """The model, or the adapter, that a run has saved."""
    return load_file(next((recipe.folder / "model").glob("*model.safetensors")))


def same_end(one: Recipe, other: Recipe, metrics_of: Callable[..., Any]) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].numpy().tobytes() == second[name].numpy().tobytes(), name
    assert metrics_of(one) == metrics_of(other)
    assert newest_checkpoint(one.folder / "checkpoints").name == newest_checkpoint(other.folder / "checkpoints").name


def wait_for(lines: Path, count: int, alive: Callable[[], bool]) -> None:
    """Until a run has logged so many steps."""
    while alive() and not (lines.exists() and lines.read_text().count("train/loss") >= count):
        time.sleep(0.002)


ASKED = {"reward": LengthConfig(), "num_samples": 3, "law": RoundLaw(max_new_tokens=6), "take_prompts": True}
ONLINE = {"evaluate": EvaluateConfig(num_prompts=4, num_samples=1), "train": {"save_every": 1}}
CASES = {
    "rollouts of one update": (RLOO(beta=0.1, target_kl=0.5), {**ONLINE, "rollout": RolloutConfig(**ASKED)}),
    "a critic and rollouts of four updates": (
        PPO(beta=0.1, target_kl=0.5),
        {**ONLINE, "rollout": RolloutConfig(**ASKED, num_prompts=16, epochs=2)},
    ),
    "rollouts of four updates": (
        XPO(),
        {**ONLINE, "rollout": RolloutConfig(**ASKED, num_prompts=16, epochs=2, decide="coin", pairs="all")},
    ),
    "dpo with dropout": (DPO(), DROPPED),
    "a coupled sum with dropout": (Mixture(terms=(Term(loss=SimPO()), Term(loss=NLL(normalization="token")))), DROPPED),
    "a running mean": (BCO(), {}),
    "mismatched completions": (KTO(), {}),
    "an adapter": (DPO(), {**DROPPED, "adapter": AdapterConfig(rank=2, dropout=0.1), "train": {"save_async": True}}),
    "a reward model": (BradleyTerry(centering=0.01), DROPPED),
    "an adapter of a reward model": (PlackettLuceReward(), {**DROPPED, "adapter": AdapterConfig(rank=2, dropout=0.1)}),
}


@pytest.mark.parametrize(("loss", "settings"), CASES.values(), ids=CASES)
def test_killed_at_any_moment(recipe_of, metrics_of, spawn, tmp_path, loss, settings):
    """SIGKILL a random time after a random step, and again; EXPTILT_KILLS=30 in the environment for more of it."""
    settings = around_a_base(settings, tmp_path / "base")
    whole = recipe_of(loss, "whole", **settings)
    run_recipe(whole, QUIET, page=False)
    cut = recipe_of(loss, "cut", **settings)
    rng = random.Random(loss.name)
    places = sorted(rng.choices(range(12), k=int(os.environ.get("EXPTILT_KILLS", "2"))))
    kills = 0
    for place in places:
        process = spawn(cut)
        wait_for(cut.folder / "metrics.jsonl", place, process.is_alive)
        time.sleep(rng.uniform(0, 0.05))
        kills += process.is_alive()
        process.kill()
        process.join()
    run_recipe(cut, QUIET, page=False)
    same_end(whole, cut, metrics_of)
    assert len(metrics_of(cut)) == 12 + 4  # every step, and the held-out rows at 0, 5, 10 and the end
    print(f"{kills} kills")


@pytest.mark.parametrize(
    ("kind", "adapter"), [("ddp", AdapterConfig(rank=2)), ("fsdp", None)], ids=["ddp lora", "fsdp"]
)
def test_two_processes_as_torchrun_starts_them(recipe_of, metrics_of, write_rows, spawn, tmp_path, kind, adapter):
    """One is killed at its seventh checkpoint's rename; the other says so and ends; started again, both come to one end.

    What was left out for its CHES, and what was sampled before the first step, is what one process leaves out and samples.
    """
    settings = {
        **DROPPED,
        "adapter": adapter,
        "parallel": ParallelConfig(kind=kind),
        "train": {"eval_samples": 2, "eval_every": 0},
    }
    settings["data"] = DataConfig(train=write_rows(), test_fraction=0.15, drop_highest_ches=0.1)
    settings = around_a_base(settings, tmp_path / "base")

    def start(recipe: Recipe, place: int) -> list[int]:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
        both = [spawn(recipe, place, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in range(2)]
        for process in both:
            process.join(120)
        return [process.exitcode for process in both]

    whole, cut = recipe_of(DPO(), "whole", **settings), recipe_of(DPO(), "cut", **settings)
    assert start(whole, 0) == [0, 0]
    first, second = start(cut, 7)
    assert first == -signal.SIGKILL
    assert second == 1
    assert newest_checkpoint(cut.folder / "checkpoints").name == "step-00000006"
    assert start(cut, 0) == [0, 0]
    same_end(whole, cut, metrics_of)
    alone = recipe_of(DPO(), "alone", **settings)
    run_recipe(replace(alone, parallel=ParallelConfig(), train=replace(alone.train, max_steps=1)), QUIET, page=False)
    for name in ("data.json", "samples/step-000000.jsonl"):
        assert (whole.folder / name).read_text() == (alone.folder / name).read_text()
    assert '"displacing": 3' in (whole.folder / "data.json").read_text()
    late = (whole.folder / "samples" / "step-000012.jsonl").read_text().splitlines()
    assert len(late) == 2
    assert all(json.loads(line)["kl"] > 1e-4 for line in late)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("loss", "rollout"),
    [
        (RLOO(beta=0.1, target_kl=0.5), RolloutConfig(**ASKED)),
        (DPO(), RolloutConfig(**ASKED, num_prompts=16, epochs=2)),
        (PPO(beta=0.1), RolloutConfig(**ASKED, num_prompts=16, epochs=2)),
    ],
    ids=["rloo", "online dpo", "ppo"],
)
def test_two_processes_draw_what_one_draws(recipe_of, metrics_of, spawn, kind, loss, rollout):
    """Rollouts, numbers and weights are those of one process; only the order of sums differs."""
    settings = {**ONLINE, "rollout": rollout, "train": {"max_steps": 6, "save_every": 100}}
    alone = recipe_of(loss, "alone", **settings)
    run_recipe(alone, QUIET, page=False)
    both = recipe_of(loss, "both", **settings, parallel=ParallelConfig(kind=kind))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [spawn(both, 0, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = metrics_of(alone), metrics_of(both)
    assert len(first) == len(second) > 6
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    same, other = weights_of(alone), weights_of(both)
    assert max(float((same[name] - other[name]).abs().max()) for name in same) < 1e-4


@pytest.mark.parametrize("place", [1, 7, -7])
def test_killed_inside_a_save(recipe_of, metrics_of, spawn, place):
    """At the last act of the first and the seventh save: what was there before counts; just after it: the new one."""
    whole = recipe_of(DPO(), "whole", **DROPPED)
    run_recipe(whole, QUIET, page=False)
    cut = recipe_of(DPO(), "cut", **DROPPED)
    process = spawn(cut, place)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    newest = newest_checkpoint(cut.folder / "checkpoints")
    assert (newest and newest.name) == {1: None, 7: "step-00000006", -7: "step-00000007"}[place]
    run_recipe(cut, QUIET, page=False)
    same_end(whole, cut, metrics_of)
    assert not list((cut.folder / "checkpoints").glob(".writing*"))


def stopped_somewhere(whole: Recipe, cut: Recipe, metrics_of: Callable[..., Any]) -> int:
    """The step of the one checkpoint a stop left; checks that going on from it ends where no stop would have."""
    step = int(newest_checkpoint(cut.folder / "checkpoints").name.removeprefix("step-"))
    assert 3 <= step < LONG["train"]["max_steps"]
    assert metrics_of(cut)[-1]["step"] == step
    run_recipe(whole, QUIET, page=False)
    assert run_recipe(cut, QUIET, page=False).finished
    same_end(whole, cut, metrics_of)
    return step


LONG = {**DROPPED, "train": {"max_steps": 60, "save_every": 1000, "eval_every": 0}}


def test_sigterm_on_the_command_line(recipe_of, metrics_of, forks, tmp_path):
    """Exit status 0, a checkpoint of the step it stopped at, and a word on how to go on."""
    whole, cut = recipe_of(DPO(), "whole", **LONG), recipe_of(DPO(), "cut", **LONG)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(cut))
    script, said = tmp_path / "command.py", tmp_path / "said"
    script.write_text(COMMAND)
    names = {"WORDS": ["exptilt", "train", str(path)], "SAID": str(said), "CACHE": os.environ["EXPTILT_CACHE"]}
    process = forks.Process(target=runpy.run_path, args=(str(script), names))
    process.start()
    wait_for(cut.folder / "metrics.jsonl", 3, process.is_alive)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 0, said.read_text()
    step = stopped_somewhere(whole, cut, metrics_of)
    assert f"stopped at step {step}; to go on: exptilt train {path}" in said.read_text()


def test_sigint(recipe_of, metrics_of, spawn):
    whole, cut = recipe_of(DPO(), "whole", **LONG), recipe_of(DPO(), "cut", **LONG)
    process = spawn(cut)
    wait_for(cut.folder / "metrics.jsonl", 3, process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 0
    stopped_somewhere(whole, cut, metrics_of)


def started(recipe: Recipe, spawn: Callable[..., Any]) -> None:
    """Leave a run cut off after its third checkpoint."""
    process = spawn(recipe, -3)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_another_recipe_is_refused_by_key_and_nothing_is_touched(recipe_of, metrics_of, spawn):
    recipe = recipe_of(DPO(), "cut")
    started(recipe, spawn)
    with pytest.raises(CheckpointError, match=r"loss\.beta.*output"):
        run_recipe(replace(recipe, loss=DPO(beta=0.7)), QUIET, page=False)
    whole = recipe_of(DPO(), "whole")
    run_recipe(whole, QUIET, page=False)
    run_recipe(recipe, QUIET, page=False)
    same_end(whole, recipe, metrics_of)


def test_other_rows_under_the_same_name_are_refused(recipe_of, spawn):
    recipe = recipe_of(DPO(), "cut")
    started(recipe, spawn)
    rows = Path(recipe.data.train)
    rows.write_text(rows.read_text().replace("film", "plot", 3))
    with pytest.raises(CheckpointError, match=r"another data\b"):
        run_recipe(recipe, QUIET, page=False)


def test_force_goes_on_with_another_recipe(recipe_of, metrics_of, spawn):
    recipe = recipe_of(DPO(), "cut")
    started(recipe, spawn)
    forced = replace(recipe, loss=DPO(beta=0.7), train=replace(recipe.train, resume="force"))
    assert run_recipe(forced, QUIET, page=False).step == 12
    whole = recipe_of(DPO(), "whole")
    run_recipe(whole, QUIET, page=False)
    forced_lines, lines = metrics_of(forced), metrics_of(whole)
    assert forced_lines[:4] == lines[:4]  # steps 0 to 3 are those of the first recipe
    assert forced_lines[5] != lines[5]


def test_never_starts_anew_and_leaves_nothing_of_the_old_run(recipe_of, metrics_of, spawn):
    """Cut off at once, the new run must not be continued from the old one's checkpoints, which are further on."""
    recipe = recipe_of(DPO(), "cut")
    process = spawn(recipe, -9)
    process.join()
    anew = replace(recipe, train=replace(recipe.train, resume="never"))
    process = spawn(anew, -2)
    process.join()
    assert newest_checkpoint(recipe.folder / "checkpoints").name == "step-00000002"
    whole = recipe_of(DPO(), "whole")
    run_recipe(whole, QUIET, page=False)
    run_recipe(recipe, QUIET, page=False)
    same_end(whole, recipe, metrics_of)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(recipe_of, metrics_of, spawn):
    recipe = recipe_of(DPO(), "cut", train={"keep_checkpoints": 2})
    process = spawn(recipe, -5)
    process.join()
    state = recipe.folder / "checkpoints" / "step-00000005" / "__0_0.distcp"
    state.write_bytes(state.read_bytes()[:-7])
    run_recipe(recipe, QUIET, page=False)
    whole = recipe_of(DPO(), "whole")
    run_recipe(whole, QUIET, page=False)
    same_end(whole, recipe, metrics_of)


def test_a_finished_run_called_again_does_nothing(recipe_of):
    recipe = recipe_of(DPO())
    assert run_recipe(recipe, QUIET, page=False).finished
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in recipe.folder.rglob("*") if path.is_file()}
    again = run_recipe(recipe, QUIET, page=False)
    assert (again.finished, again.step) == (True, 12)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in recipe.folder.rglob("*") if path.is_file()}
    assert before == after


def test_two_runs_of_one_recipe_are_equal_and_another_seed_is_another_run(recipe_of, metrics_of):
    one, other = recipe_of(DPO(), "one", **DROPPED), recipe_of(DPO(), "other", **DROPPED)
    third = replace(recipe_of(DPO(), "third", **DROPPED), seed=1)
    for recipe in (one, other, third):
        run_recipe(recipe, QUIET, page=False)
    same_end(one, other, metrics_of)
    assert metrics_of(third) != metrics_of(one)
