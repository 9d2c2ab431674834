"""Rounds of masks: resumed at any point, equal to rounds that were never stopped; labels by an annotator or by people."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mask_rows import write_pairs
from rich.console import Console

from exptilt.data.masks.image_files import read_image, read_mask
from exptilt.errors import CheckpointError, ConfigError, DataError, Waiting
from exptilt.evaluation.masks.mask_evaluation import predicted
from exptilt.people.image_items import image_rows
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.mask_run import run_masks
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.settings.load import dump, load
from exptilt.settings.mask_settings import MaskRecipe, SegmenterConfig
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

QUIET = Console(quiet=True)
ROUNDS = "rounds={num_rounds: 2, annotator: {temperature: 0.02}}"


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Folder of a segmenter that knows a little."""
    folder = tmp_path_factory.mktemp("learned")
    write_pairs(folder, "pairs", 18, 0)
    unet = "segmenter={config: {channels: 1, width: 4, levels: 2}}"
    stated = [unet, f"data.train={folder / 'pairs.jsonl'}", f"output={folder / 'run'}", "loss={name: sft}"]
    run_masks(load(MaskRecipe, None, [*stated, "optim.learning_rate=0.01", "batch.size=6"]), QUIET, page=False)
    return folder / "run" / "model"


@pytest.fixture
def rounds_of(recipe_of, here, learned):
    """`rounds_of("key=value", ...)`: two quick rounds from a segmenter that knows a little."""
    shutil.copytree(learned, here / "start")

    def make(*overrides: str) -> MaskRecipe:
        return recipe_of(
            "segmenter={path: start}", f"data.train={here / 'pairs.jsonl'}", f"data.test={here / 'held.jsonl'}",
            f"output={here / 'rounds'}", ROUNDS, "train.epochs=1", "train.eval_every=0", *overrides,
        )  # fmt: skip

    return make


def left(folder: Path) -> dict[str, Any]:
    """Everything that rounds leave and that must not depend on interruptions."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("round-*-samples/masks/*.png"))]
    for number in (1, 2):
        names += [f"round-{number}-{name}" for name in ("samples/items.jsonl", "rows.jsonl")]
        names += [f"round-{number}/{name}" for name in ("model/model.safetensors", "mask_evaluation.json")]
    names += ["mask_evaluation.json", *(f"pictures/{at:02d}.png" for at in range(6))]
    rounds = json.loads((folder / "run.json").read_text())["rounds"]
    return {name: (folder / name).read_bytes() for name in names} | {"rounds": rounds}


def start(place: str, recipe: str) -> None:
    """Run rounds in this process, and die right after a file has taken its name."""
    torch.set_num_threads(1)
    replace = os.replace

    def renamed(source: Any, target: Any) -> None:
        replace(source, target)
        if str(target).endswith(place):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = renamed
    run_rounds(load(MaskRecipe, recipe), QUIET, page=False)


@pytest.mark.slow
def test_killed_in_every_step_the_rounds_end_bitwise_the_same(rounds_of, here):
    run_rounds(rounds_of(f"output={here / 'whole'}"), QUIET)
    cut = rounds_of(f"output={here / 'cut'}")
    (here / "cut.yaml").write_text(dump(cut))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exptilt.runs.rounds.run_rounds"])
    places = ("round-1-samples/masks.yaml", "round-1-samples/items.jsonl", "round-1-rows.jsonl", "round-2/data.json",
              "round-2/checkpoints/step-00000002", "/cut/mask_evaluation.json")  # fmt: skip
    for place in places:
        process = context.Process(target=start, args=(place, str(here / "cut.yaml")))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, place
    assert run_rounds(cut, QUIET, page=False).finished
    assert left(cut.folder) == left(here / "whole")
    page = (here / "whole" / "report.html").read_text()
    assert "Round by round" in page
    found = RunFolder(here / "whole").read("mask_evaluation.json")
    first = RunFolder(here / "whole" / "round-1").read("mask_evaluation.json")
    last = RunFolder(here / "whole" / "round-2").read("mask_evaluation.json")
    assert found["reference"]["dice"] == first["reference"]["dice"]
    assert found["policy"]["dice"] == last["policy"]["dice"]
    assert last["reference"]["dice"] == first["policy"]["dice"]  # a round's reference is the segmenter it began with
    assert (here / "whole" / "model").resolve() == (here / "whole" / "round-2" / "model").resolve()


def test_the_segmenters_own_mask_is_a_candidate_and_each_round_draws_from_its_own_start(rounds_of, here):
    run_rounds(rounds_of("rounds.num_masks=2", "rounds.num_pairs=1"), QUIET, page=False)
    for number, path in ((1, "start"), (2, "rounds/round-1")):
        segmenter = load_segmenter(SegmenterConfig(path=path), 2)
        items = [
            json.loads(line) for line in Path(f"rounds/round-{number}-samples/items.jsonl").read_text().splitlines()
        ]
        assert len(items) == 18
        for at, item in enumerate(items):
            own = predicted(segmenter, [read_image(here / f"pairs{at}.png", 1)])[0].argmax(0).numpy()
            masks = [read_mask(here / "rounds" / f"round-{number}-samples" / name) for name in item["masks"]]
            assert sum(np.array_equal(mask, own) for mask in masks) == 1


def test_one_round_more_goes_on(rounds_of, here):
    run_rounds(rounds_of("rounds.num_rounds=1"), QUIET, page=False)
    before = (here / "rounds" / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns
    assert run_rounds(rounds_of(), QUIET, page=False).finished
    assert (here / "rounds" / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert [one.status for one in RunFolder(here / "rounds").run.rounds] == ["trained", "trained"]
    with pytest.raises(CheckpointError, match=r"another recipe \(different: rounds\.num_pairs\)"):
        run_rounds(rounds_of("rounds.num_pairs=1"), QUIET, page=False)


def vote(store: VoteStore, items: Path, better: dict[str, str]) -> None:
    """One person prefers, of every comparison, the mask named in `better`."""
    for row in image_rows(str(items), Counter()):
        comparison = row.comparison
        first = sorted(comparison.answers)[0]
        outcome = "first" if better[comparison.id] == first else "second"
        anna = Rater("person", "anna")
        store.add(
            comparison, Vote(comparison=comparison.id, rater=anna, order=(0, 1), outcome=outcome, nonce=comparison.id)
        )


def test_people_vote_between_the_rounds(rounds_of, here):
    recipe = rounds_of("rounds={num_rounds: 1, num_pairs: 1}")
    with pytest.raises(
        Waiting, match=r"0 of 18 comparisons have 1 vote .*`exptilt label .*/round-1-samples/items\.jsonl"
    ):
        run_rounds(recipe, QUIET, page=False)
    assert RunFolder(here / "rounds").run.status == "waiting"
    items = here / "rounds" / "round-1-samples" / "items.jsonl"
    better = {row.comparison.id: max(row.comparison.answers) for row in image_rows(str(items), Counter())}
    assert len(better) == 18
    with VoteStore(here / "rounds" / "round-1-votes.db") as store:
        vote(store, items, better)
    assert run_rounds(recipe, QUIET, page=False).finished
    rows = [json.loads(line) for line in (here / "rounds" / "round-1-rows.jsonl").read_text().splitlines()]
    assert sorted(row["chosen"] for row in rows) == sorted(f"round-1-samples/{name}" for name in better.values())
    assert all((here / "rounds" / row["image"]).is_file() for row in rows)
    data = RunFolder(here / "rounds" / "round-1").read("data.json")
    assert data["train"]["kept"] == 18


REFUSED = (
    (["rounds={num_rounds: 1, annotator: {flip: 0.7}}"], r"flip must be in \[0, 0\.5\]"),
    (["rounds.annotator.weights=[1, 1]"], "2 of them, and there are 1 classes"),
    (["rounds.num_masks=1"], "num_masks"),
    (["data.test=null", "data.test_fraction=0.2"], r"name held-out images with data\.test"),
    (["segmenter={config: {channels: 1}}"], "candidates of random weights"),
    (["rounds={num_rounds: 1}", "evaluate.rivals=true"], r"needs rounds\.annotator"),
)


@pytest.mark.parametrize(("overrides", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(rounds_of, overrides, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        run_rounds(rounds_of(*overrides), QUIET)
    assert len(str(refusal.value).splitlines()) == 1
    assert not Path("rounds").exists()


def test_every_image_that_cannot_be_used_is_named_before_a_folder_is_made(rounds_of, here):
    (here / "pairs3.png").write_bytes(b"no picture")
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    del rows[6]["target"]
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as refusal:
        run_rounds(rounds_of(), QUIET)
    first, second = str(refusal.value).splitlines()
    assert first.startswith("pairs.jsonl:4: ")
    assert "cannot be read as an image" in first
    assert second.startswith("pairs.jsonl:7: no true mask (`target`)")
    assert not Path("rounds").exists()


@pytest.mark.slow
def test_rivals_go_through_rounds_of_their_own(rounds_of, here):
    run_rounds(rounds_of("evaluate.rivals=true"), QUIET)
    found = RunFolder(here / "rounds").read("mask_evaluation.json")
    names = ["imitation of winners", "one bias a class", "labels by a coin", "true masks"]
    assert [one["name"] for one in found["rivals"]] == names
    rows = {
        name: (here / "rounds" / where / "round-2-rows.jsonl").read_text().count("\n")
        for name, where in (("own", ""), ("imitation", "rivals/imitation"), ("coin", "rivals/coin"))
    }
    assert rows["own"] > 30
    assert max(rows.values()) - min(rows.values()) <= 3  # an image whose candidates are alike has fewer pairs
    bias = load_segmenter(SegmenterConfig(path="rounds/rivals/bias"), 2).state_dict()
    began = load_segmenter(SegmenterConfig(path="start"), 2).state_dict()
    assert [name for name, value in bias.items() if not torch.equal(value, began[name])] == ["network.head.bias"]
    steps = {where: RunFolder(here / "rounds" / where).run.steps for where in ("round-1", "round-2", "rivals/truth")}
    assert abs(steps["rivals/truth"] - steps["round-1"] - steps["round-2"]) <= 1
    page = (here / "rounds" / "report.html").read_text()
    assert all(f">{name}<" in page for name in names)
