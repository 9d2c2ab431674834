"""Every verb on a recipe or a run of masks: it works, or says in one line what does instead."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from exptilt.cli import main
from exptilt.data.masks.image_files import read_mask, write_mask
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe, SegmenterConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from mask_rows import write_pairs

RECIPE = """\
segmenter: {config: {channels: 1, width: 4, levels: 2}}
data: {train: pairs.jsonl, test: held.jsonl}
output: run
batch: {size: 6}
train: {epochs: 1}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with rows, a recipe and its finished run."""
    folder = tmp_path_factory.mktemp("masks")
    write_pairs(folder, "pairs", 12, 0)
    write_pairs(folder, "held", 4, 1)
    write_pairs(folder, "more", 3, 2)
    (folder / "r.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def say(home, monkeypatch, capsys):
    """`say("train", ...)`: exit status, standard output and error of a command in that folder."""
    monkeypatch.chdir(home)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["exptilt", *words])
        with pytest.raises(SystemExit) as leaving:
            main()
        told = capsys.readouterr()
        return int(leaving.value.code or 0), told.out, told.err

    if not (home / "run").exists():
        assert call("train", "r.yaml")[0] == 0
    return call


def test_evaluate_measures_the_run_other_images_another_segmenter_and_rivals(say, home):
    own = json.loads((home / "run" / "mask_evaluation.json").read_text())
    status, out, _ = say("evaluate", "run")
    assert (status, "Dice" in out) == (0, True)
    assert json.loads((home / "run" / "mask_evaluation.json").read_text()) == own
    assert say("evaluate", "run", "data.test=more.jsonl")[0] == 0
    other = json.loads((home / "run" / "mask_evaluation-more.json").read_text())
    assert (own["num_images"], other["num_images"]) == (4, 3)
    assert say("evaluate", "run", "--reference", "run/model", "--output", "beside")[0] == 0
    beside = json.loads((home / "beside" / "mask_evaluation-model.json").read_text())
    assert beside["policy"]["kl"]["value"] == pytest.approx(0, abs=1e-7)  # against itself
    assert beside["policy"]["dice"] == own["policy"]["dice"]
    assert say("evaluate", "run", "evaluate.rivals=true")[0] == 0
    names = [one["name"] for one in json.loads((home / "run" / "mask_evaluation.json").read_text())["rivals"]]
    assert names == ["imitation of winners", "one bias a class", "labels by a coin", "true masks"]
    assert "imitation of winners" in (home / "run" / "report.html").read_text()
    status, _, err = say("evaluate", "run", "data.test=null")
    assert (status, err.strip()) == (
        2,
        "exptilt: no held-out images; name some with data.test=... or data.test_fraction=0.1",
    )


def test_plan_measures_a_step_and_counts(say):
    status, out, _ = say("plan", "r.yaml", "--json")
    plan = json.loads(out)
    assert (status, plan["rows"], plan["steps"], plan["fits"]) == (0, 12, 2, True)
    segmenter = load_segmenter(SegmenterConfig(path="run"), 2)
    assert plan["weights"] == plan["trained"] == sum(weight.numel() for weight in segmenter.parameters())
    assert plan["memory"]["optimizer"] == 8 * plan["weights"]
    assert plan["memory"]["images and masks"] == 12 * 16 * 16 * (1 + 2 * 4)
    assert plan["seconds"] == pytest.approx(2 * plan["step_seconds"] + plan["score_seconds"])
    more = json.loads(say("plan", "r.yaml", "--json", "batch.images=1")[1])
    assert more["memory"]["activations"] < plan["memory"]["activations"] / 4
    rounds = "rounds={num_rounds: 3, annotator: {}}"
    assert json.loads(say("plan", "r.yaml", "segmenter={path: run}", rounds, "--json")[1])["rounds"] == 3
    assert "it fits" in say("plan", "r.yaml")[1]
    status, _, err = say("plan", "r.yaml", "--gpus", "8xH100-80GB")
    assert (status, len(err.splitlines())) == (2, 1)


def test_doctor_reads_rows_or_the_images_of_rounds(say, home):
    assert say("doctor", "r.yaml")[0] == 0
    status, out, _ = say("doctor", "r.yaml", "segmenter={path: run}", "rounds={num_rounds: 2, annotator: {}}")
    assert status == 0
    assert "48 masks, 4 of 12 images" in out
    spoiled = (home / "pairs3-true.png").read_bytes()
    (home / "pairs3-true.png").write_bytes(b"no picture")
    try:
        status, out, _ = say("doctor", "r.yaml")
        assert status == 1
        assert "pairs.jsonl:4: " in " ".join(out.split())
    finally:
        (home / "pairs3-true.png").write_bytes(spoiled)


def test_export_writes_a_folder_that_loads_with_its_card(say, home):
    status, out, _ = say("export", "run", "--output", "out")
    assert (status, out) == (0, "model: out\n")
    assert (
        load_segmenter(SegmenterConfig(path="out"), 2).fingerprint()
        == load_segmenter(SegmenterConfig(path="run"), 2).fingerprint()
    )
    card = (home / "out" / "README.md").read_text()
    assert "| Dice |" in card
    assert "load_segmenter" in card
    status, _, err = say("export", "run", "--merge")
    assert (status, err.strip()) == (
        2,
        "exptilt: run: a run on masks, whose segmenter has no adapter to merge; leave out --merge",
    )


def test_init_and_config_know_masks(say, home):
    assert say("init", "--masks", "mine.yaml")[0] == 0
    assert load(MaskRecipe, "mine.yaml").data.units == "differing"
    assert "segmenter.path" in say("config", "segmenter.path")[1].replace(" ", "")
    assert "rivals" in say("config", "--masks", "evaluate")[1]
    assert "MaskData" in json.loads(say("config", "--masks", "--json-schema")[1])["$defs"]


def test_report_of_a_run_without_held_out_images_is_one_of_masks(say, home):
    assert say("train", "r.yaml", "data.test=null", "output=alone")[0] == 0
    status, out, _ = say("report", "alone", "--output", "page")
    assert (status, out.strip()) == (0, "page/report.html")
    assert "Cannot tell: no image was held out." in (home / "page" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("prepare", "r.yaml"), "`exptilt doctor` checks them all"),
        (("sample", "run", "data.train=x.jsonl", "--output", "s"), "`exptilt masks` makes masks"),
        (("chat", "run"), "`exptilt masks` makes masks"),
        (("serve", "run"), "`exptilt masks` makes masks"),
        (("report", "run", "run"), "the report of such a run is a page of its own"),
    ],
)
def test_what_belongs_to_texts_says_what_to_do_instead_in_one_line(say, words, instead):
    status, _, err = say(*words)
    (line,) = [line for line in err.splitlines() if line.startswith("exptilt: ")]
    assert status == 2
    assert instead in line
    assert len(line) < 300
    assert not os.path.exists("s")


def test_the_wrong_number_of_classes_and_of_weights_is_one_line(say):
    status, _, err = say("train", "r.yaml", "segmenter={path: run}", "data.classes=3", "output=other")
    assert (status, err.strip().splitlines()[-1]) == (
        2,
        "exptilt: segmenter.path: run: has 2 classes, and data.classes has 3",
    )
    status, _, err = say("masks", "run", "images=pairs.jsonl", "annotator.weights=[1, 2]", "--output", "cand")
    assert status == 2
    assert "annotator.weights: 2 of them, and there are 1 classes" in err
    assert not os.path.exists("cand")


def test_masks_coded_0_and_255_go_through_candidates_and_back(say, home):
    """Candidates are written as the masks of the data are, or training would read them as background."""
    for path in home.glob("more*-*.png"):
        write_mask(path, (read_mask(path) > 0) * 255)
    status, out, _ = say(
        "masks", "run", "images=more.jsonl", "foreground=255", "annotator.temperature=0", "--output", "coded"
    )
    assert status == 0, out
    rows = [json.loads(line) for line in (home / "coded" / "pairs.jsonl").read_text().splitlines()]
    values = {int(value) for row in rows for value in np.unique(read_mask(home / "coded" / row["chosen"]))}
    assert values == {0, 255}
    stated = [
        "data.train=coded/pairs.jsonl",
        "data.foreground=255",
        "data.test=null",
        "output=coded-run",
        "data.max_difference=1",
    ]
    assert say("train", "r.yaml", *stated)[0] == 0
