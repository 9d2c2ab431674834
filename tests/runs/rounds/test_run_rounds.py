"""All rounds of a recipe: one command, resumed at any point, equal to rounds that were never stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from exptilt.cli import main
from exptilt.errors import CheckpointError, ConfigError, DataError, Stopped, Waiting
from exptilt.reports.tables.rounds_table import rounds_table
from exptilt.run_folder.run_record import RunRecord
from exptilt.runs.rounds.round_steps import follow
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.sampling.sample_rows import read_samples
from exptilt.settings.load import dump
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

QUIET = Console(quiet=True)
KILLED = """
import os, signal
import torch

torch.set_num_threads(1)
os.environ["EXPTILT_CACHE"] = CACHE
from rich.console import Console
from exptilt.runs.rounds import text_rounds
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.sampling.sample_rows import SampleFolder
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

add, replace = SampleFolder.add, os.replace

def torn(self, rows):
    add(self, rows)
    if self.path.name == "round-2-samples":
        with (self.path / "samples.jsonl").open("a") as file:
            file.write('{"prompt_id": "half a row')
        die()

def renamed(source, target):
    replace(source, target)
    if "round-2/checkpoints/step-00000002" in str(target):
        die()

if PLACE == "sampling":
    SampleFolder.add = torn
if PLACE == "labelling":
    text_rounds.write_lines = die
if PLACE == "training":
    os.replace = renamed
run_rounds(load(Recipe, RECIPE), Console(quiet=True), page=False)
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that a round leaves and that must not depend on interruptions."""
    names = [
        f"round-{number}{part}"
        for number in (1, 2)
        for part in ("-samples/samples.jsonl", "-rows.jsonl", "/model/model.safetensors")
    ]
    # Rows name the model that wrote them by its folder, which is another one here.
    return {
        name: (folder / name).read_bytes().replace(str(folder).encode(), b"")
        for name in (*names, "round-3-samples/samples.jsonl")
    }


def rounds_of(folder: Path) -> tuple[dict, dict]:
    content = json.loads((folder / "run.json").read_text())
    return content["rounds"], content["after_rounds"]


@pytest.fixture
def forks() -> Any:
    """Starts processes that have imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exptilt.runs.rounds.run_rounds", "peft"])
    return context


@pytest.mark.slow
def test_killed_in_every_step_the_rounds_end_bitwise_the_same(rounds_recipe, tmp_path, forks):
    recipe = rounds_recipe("whole")
    run_rounds(recipe, QUIET)
    cut = rounds_recipe("cut")
    written = tmp_path / "cut.yaml"
    written.write_text(dump(cut))
    for place in ("sampling", "labelling", "training"):
        script = f"PLACE, RECIPE, CACHE = {(place, str(written), os.environ['EXPTILT_CACHE'])!r}\n{KILLED}"
        process = forks.Process(target=exec, args=(script, {}))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    outcome = run_rounds(cut, QUIET, page=False)
    assert outcome.finished
    assert files_of(cut.folder) == files_of(recipe.folder)
    assert rounds_of(cut.folder) == rounds_of(recipe.folder)
    # The folder of all rounds: a page with all of them, and the last model as its own.
    page = (recipe.folder / "report.html").read_text()
    assert "Round by round" in page
    assert (recipe.folder / "model" / "model.safetensors").samefile(
        recipe.folder / "round-2" / "model" / "model.safetensors"
    )
    check_what_was_measured(recipe.folder)
    told = Console(record=True, width=80, quiet=False)
    with told.capture() as shown:
        told.print(rounds_table(RunRecord.from_dict(json.loads((recipe.folder / "run.json").read_text()))))
    assert [name for line in shown.get().splitlines()[1:] if (name := line[:13].strip())] == [
        "at the start",
        "after round 1",
        "after round 2",
    ]


def check_what_was_measured(folder: Path) -> None:
    """The numbers of run.json, from the samples themselves."""
    rounds, after = rounds_of(folder)
    for number, start in enumerate([rounds[0]["start"], rounds[1]["start"], after], start=1):
        rows = list(read_samples(folder / f"round-{number}-samples"))
        assert len(rows) == start["num_samples"] == 48
        assert start["reward"]["value"] == pytest.approx(np.mean([len(row.completion) for row in rows]))
        assert start["length"]["value"] == pytest.approx(np.mean([len(row.completion_ids) for row in rows]))
    assert "kl" not in rounds[0]["start"]
    assert 0 < rounds[1]["start"]["kl"]["value"] < after["kl"]["value"] * 3  # it went somewhere in either round
    assert [one["num_rows"] for one in rounds] == [
        len((folder / f"round-{number}-rows.jsonl").read_text().splitlines()) for number in (1, 2)
    ]
    assert [one["status"] for one in rounds] == ["trained", "trained"]


@pytest.mark.slow
def test_one_round_more_goes_on_and_is_what_it_would_have_been(rounds_recipe, monkeypatch):
    short = rounds_recipe("grown", rounds={"num_rounds": 1, "reward": {"kind": "length"}})
    run_rounds(short, QUIET, page=False)
    began = (short.folder / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns
    grown = rounds_recipe("grown")
    run_rounds(grown, QUIET, page=False)
    assert (short.folder / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns == began  # not trained again
    recipe = rounds_recipe("two")
    run_rounds(recipe, QUIET, page=False)
    assert files_of(grown.folder) == files_of(recipe.folder)
    assert rounds_of(grown.folder) == rounds_of(recipe.folder)
    before = files_of(grown.folder)
    run_rounds(grown, QUIET, page=False)  # finished: nothing happens
    assert files_of(grown.folder) == before
    with pytest.raises(CheckpointError, match=r"another recipe \(different: optim\.learning_rate\)"):
        run_rounds(rounds_recipe("grown", optim={"learning_rate": 1e-3}), QUIET, page=False)
    fresh = rounds_recipe("grown", train={"epochs": 2, "save_every": 1, "log_every": 1, "resume": "never"})
    run_rounds(fresh, QUIET, page=False)  # moved aside, not lost
    (aside,) = (fresh.folder / "earlier").iterdir()
    assert (aside / "round-2" / "model" / "model.safetensors").read_bytes() == before["round-2/model/model.safetensors"]
    assert files_of(fresh.folder) == before


@pytest.mark.slow
def test_people_vote_between_the_rounds_by_the_same_command(rounds_recipe, tmp_path, monkeypatch, capsys):
    recipe = rounds_recipe("people", rounds={"num_rounds": 1, "law": {"max_new_tokens": 6}})
    written = tmp_path / "people.yaml"
    written.write_text(dump(recipe))

    def command() -> int:
        monkeypatch.setattr(sys, "argv", ["exptilt", "train", str(written)])
        try:
            main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    assert command() == 0
    assert "round 1 waits for people: 0 of" in capsys.readouterr().out
    state = json.loads((recipe.folder / "run.json").read_text())
    assert (state["status"], state["rounds"][0]["status"]) == ("waiting", "waiting")
    assert "round-1-votes.db" in state["reason"]
    with VoteStore(recipe.folder / "round-1-votes.db") as store:
        for comparison in store.comparisons().values():
            longer = "first" if len(comparison.answers[0]) >= len(comparison.answers[1]) else "second"
            store.add(
                comparison,
                Vote(
                    comparison=comparison.id,
                    rater=Rater("person", "anna"),
                    order=(0, 1),
                    outcome=longer,
                    nonce=comparison.id,
                ),
            )
    assert command() == 0
    assert "after round 1" in capsys.readouterr().out
    state = json.loads((recipe.folder / "run.json").read_text())
    assert (state["status"], state["rounds"][0]["status"]) == ("done", "trained")
    assert state["rounds"][0]["num_comparisons"] == len(store.comparisons())
    rows = [json.loads(line) for line in (recipe.folder / "round-1-rows.jsonl").read_text().splitlines()]
    assert all(len(row["chosen"]) >= len(row["rejected"]) for row in rows)


def test_a_reward_that_prefers_nothing_stops_with_one_line_and_samples_stay(rounds_recipe, tmp_path, monkeypatch):
    (tmp_path / "flat.py").write_text("def flat(answers):\n    return [1.0] * len(answers)\n")
    monkeypatch.chdir(tmp_path)
    recipe = rounds_recipe("flat", rounds={"num_rounds": 1, "reward": {"import": "flat:flat"}})
    with pytest.raises(DataError, match=r"^round 1: reward flat: gives 1 to all 48 answers"):
        run_rounds(recipe, QUIET, page=False)
    state = json.loads((recipe.folder / "run.json").read_text())
    assert (state["status"], state["rounds"][0]["status"]) == ("failed", "sampled")
    assert len(list(read_samples(recipe.folder / "round-1-samples"))) == 48
    close = rounds_recipe("close", rounds={"num_rounds": 1, "reward": {"kind": "length"}, "min_margin": 1000})
    with pytest.raises(
        DataError, match=r"^round 1: no completion is preferred.*11 a smaller margin than min_margin, 1 ties"
    ):
        run_rounds(close, QUIET, page=False)


def test_prompts_that_changed_within_a_round_are_refused(rounds_recipe, tmp_path, speaker):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text((speaker / "prompts.jsonl").read_text())
    recipe = rounds_recipe("people", rounds={"num_rounds": 1}, data={"train": str(prompts)})
    with pytest.raises(Waiting):
        run_rounds(recipe, QUIET, page=False)
    prompts.write_text(json.dumps({"prompt": "another"}) + "\n")
    with pytest.raises(CheckpointError, match="round 1 began with other prompts"):
        run_rounds(recipe, QUIET, page=False)


def test_rounds_take_the_next_prompts_and_begin_again_after_the_last(rounds_recipe):
    from exptilt.runs.rounds.text_rounds import TextRounds

    recipe = rounds_recipe(rounds={"prompts_per_round": 5})
    steps = TextRounds(recipe, lambda number: None, lambda record: None, lambda policy: None, QUIET)
    asked = [[one.prompt for one in steps._asked(number)] for number in (1, 2, 3)]
    assert [len(prompts) for prompts in asked] == [5, 5, 5]
    assert asked[2] == ["the film 10", "the film 11", "the film 0", "the film 1", "the film 2"]
    everything = TextRounds(rounds_recipe(), lambda number: None, lambda record: None, lambda policy: None, QUIET)
    assert everything._asked(1) == everything._asked(2)


def test_several_processes_are_refused(rounds_recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="rounds: sampling and labelling run in one process"):
        run_rounds(rounds_recipe(), QUIET)


class Masks:
    """Steps on something that is no text: follow() knows nothing else of them."""

    def __init__(self, stops_at: tuple[str, int] | None = None) -> None:
        self.taken: list[tuple[str, int]] = []
        self._stops_at = stops_at

    def _take(self, step: str, number: int) -> None:
        if (step, number) == self._stops_at:
            raise Stopped("stopped")
        self.taken.append((step, number))

    def begin(self) -> None:
        self._take("begin", 0)

    def sample(self, number: int) -> None:
        self._take("sample", number)

    def label(self, number: int) -> None:
        self._take("label", number)

    def train(self, number: int) -> None:
        self._take("train", number)

    def finish(self, num_rounds: int) -> None:
        self._take("finish", num_rounds)


def test_steps_are_taken_in_order_for_whatever_is_sampled():
    masks = Masks()
    follow(masks, 2)
    assert masks.taken == [
        ("begin", 0), ("sample", 1), ("label", 1), ("train", 1), ("sample", 2), ("label", 2), ("train", 2), ("finish", 2),
    ]  # fmt: skip
    stopped = Masks(("label", 2))
    with pytest.raises(Stopped):
        follow(stopped, 2)
    assert stopped.taken[-1] == ("sample", 2)
