"""`exptilt frontier` on masks: ends of runs on the plane, exactly, beside the best independent pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from exptilt.data.masks.image_files import read_image, write_mask
from exptilt.errors import ConfigError, DataError, Stopped
from exptilt.evaluation.masks.mask_evaluation import predicted
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.rewards.mask_annotator import MaskAnnotator
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.frontier_record import Frontier
from exptilt.runs.mask_run import run_masks
from exptilt.runs.run_start import Outcome
from exptilt.settings.any_recipe import load_grid, load_recipe
from exptilt.settings.mask_settings import SegmenterConfig
from exptilt.testbed.blobs import blobs, thickened
from exptilt.verbs.frontier import frontier

GRID = """\
output: study
segmenter: {path: start}
data: {train: pairs.jsonl, test: held.jsonl, max_difference: 1.0}
methods:
  - {loss: {name: dpo, beta: 0.5}}
  - {loss: {name: dpo, beta: 4.0}}
  - {loss: {name: nll}, label: imitation}
batch: {size: 8, images: 8}
optim: {learning_rate: 2.0e-3}
train: {epochs: 6, log_every: 100, save_every: 100}
measure: {betas: 8}
"""


def write_rows(folder, name, count, seed):
    images, masks = blobs(count, 16, seed)
    wrong = thickened(masks, 1)
    rows = []
    for at in range(count):
        stem = f"{name}{at}"
        Image.fromarray(images[at]).save(folder / f"{stem}.png")
        write_mask(folder / f"{stem}-true.png", masks[at])
        write_mask(folder / f"{stem}-wrong.png", wrong[at])
        row = {"image": f"{stem}.png", "chosen": f"{stem}-true.png", "rejected": f"{stem}-wrong.png"}
        rows.append(row | {"target": row["chosen"]})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A finished study, its folder and what was printed."""
    folder = tmp_path_factory.mktemp("masks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_rows(folder, "pairs", 16, 0)
        write_rows(folder, "held", 5, 1)
        rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
        coarse = [json.dumps({"image": row["image"], "mask": row["rejected"]}) + "\n" for row in rows]
        Path("coarse.jsonl").write_text("".join(coarse))
        Path("start.yaml").write_text(
            "segmenter: {config: {channels: 1, width: 4, levels: 2}}\ndata: {train: coarse.jsonl}\noutput: start\n"
            "loss: {name: sft, normalization: sequence}\noptim: {learning_rate: 1.0e-2}\ntrain: {epochs: 30, log_every: 100}\n"
        )
        run_masks(load_recipe("start.yaml"), Console(quiet=True))
        Path("grid.yaml").write_text(GRID)
        printed = io.StringIO()
        frontier(load_grid("grid.yaml"), Console(file=printed, width=100))
        yield folder, RunFolder(folder / "study").record(Frontier, "frontier.json"), printed.getvalue()


def distributions(folder, path):
    segmenter = load_segmenter(SegmenterConfig(path=str(folder / path)), 2)
    return [predicted(segmenter, [read_image(folder / f"held{at}.png", 1)])[0].double().numpy() for at in range(5)]


def test_points_are_where_draws_and_sums_over_pixels_put_them(studied):
    """KL is the sum of the pixels' KLs, and the reward what masks drawn from the segmenter are worth."""
    folder, found, _ = studied
    random, annotator = np.random.default_rng(0), MaskAnnotator()
    _, trues = blobs(5, 16, 1)
    start = distributions(folder, "start")
    assert [point.name for point in found.points] == ["DPO beta=0.5", "DPO beta=4", "imitation"]
    for point in found.points:
        policy = distributions(folder, f"study/runs/{point.run}")
        kl = np.mean([(np.exp(one) * (one - other)).sum() for one, other in zip(policy, start, strict=True)])
        assert point.kl.value == pytest.approx(kl, rel=1e-4)
        drawn = np.array(
            [
                [annotator.utility((random.random((16, 16)) < np.exp(one[1])).astype(int), true) for _ in range(200)]
                for one, true in zip(policy, trues, strict=True)
            ]
        )
        error = np.sqrt((drawn.var(1) / 200).sum()) / 5
        assert point.reward.value == pytest.approx(drawn.mean(), abs=4 * error)
        assert point.fraction.value < 1
        assert point.above_optimum.value < 0
        assert point.gain.value == pytest.approx(point.reward.value - found.reference_reward.value, abs=1e-9)


def test_more_beta_is_less_kl_and_the_curve_starts_at_the_reference(studied):
    _, found, _ = studied
    free, held = (point.kl.value for point in found.points[:2])
    assert held < free
    assert found.points[2].fraction.value > 0  # imitation of true masks gains
    assert found.optimum.kl[0] == 0
    assert found.optimum.reward[0] == pytest.approx(found.reference_reward.value)
    assert found.optimum.reward[-1] == pytest.approx(1)
    assert found.optimum.exact_for == "any policy whose pixels are independent"


def test_the_page_speaks_of_masks_and_images(studied):
    folder, _, printed = studied
    page = (folder / "study" / "report.html").read_text()
    assert "nats per mask" in page
    assert "nats per reply" not in page
    assert "5 held-out images" in page
    assert "any policy whose pixels are independent" in page
    assert "imitation" in printed
    assert "Intervals cover other images" in printed


def test_a_second_call_measures_nothing_again(studied, monkeypatch):
    folder, found, _ = studied
    monkeypatch.chdir(folder)
    files = [path for path in (folder / "study").rglob("*.json") if path.parent.name in ("points", "study")]
    before = {path: path.stat().st_mtime_ns for path in files if path.name not in ("frontier.json", "report.json")}
    assert len(before) >= 4
    frontier(load_grid("grid.yaml"), Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert RunFolder(folder / "study").record(Frontier, "frontier.json") == found


def test_weighted_accuracy_has_an_optimum_over_all_policies(studied, monkeypatch):
    folder, _, _ = studied
    monkeypatch.chdir(folder)
    settings = ["output=accuracy", "methods=[]", "measure={reward: accuracy, weights: [1, 4], betas: 6}"]
    frontier(load_grid("grid.yaml", settings), Console(quiet=True))
    found = RunFolder(folder / "accuracy").record(Frontier, "frontier.json")
    assert found.reward_name == "expected weighted accuracy"
    assert found.optimum.exact_for == "any policy"
    start, (_, trues) = distributions(folder, "start"), blobs(5, 16, 1)
    shares = []
    for logs, true in zip(start, trues, strict=True):
        worth = np.where(true == 1, 4.0, 1.0)
        shares.append((worth * np.where(true == 1, np.exp(logs[1]), np.exp(logs[0]))).sum() / worth.sum())
    assert found.reference_reward.value == pytest.approx(np.mean(shares), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data={train: pairs.jsonl}", "data.test or data.test_fraction must be set"),
        ("measure={weights: [1, 2]}", "dice of 2 classes takes 1, got 2"),
        ("measure={images: 1}", "images must be >= 2"),
        ("segmenter={config: {channels: 1}}", "starts from trained weights"),
        ("methods=[{loss: {name: anchor_linear}}]", "anchor_linear"),
    ],
)
def test_what_cannot_be_studied_is_one_line(studied, monkeypatch, change, words):
    folder, _, _ = studied
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=words):
        frontier(load_grid("grid.yaml", ["output=other", change]), Console(quiet=True))


def test_images_without_a_true_mask_make_no_frontier(studied, monkeypatch):
    folder, _, _ = studied
    monkeypatch.chdir(folder)
    rows = [json.loads(line) for line in Path("held.jsonl").read_text().splitlines()]
    Path("bare.jsonl").write_text("".join(json.dumps({**row, "target": None}) + "\n" for row in rows))
    with pytest.raises(DataError, match="0 held-out images have a true mask"):
        frontier(load_grid("grid.yaml", ["output=bare", "data.test=bare.jsonl"]), Console(quiet=True))


def test_a_stopped_run_stops_the_study(studied, monkeypatch):
    """And what it had is kept: the same command goes on."""
    folder, _, _ = studied
    monkeypatch.chdir(folder)
    stopped = Outcome(RunFolder(folder / "elsewhere"), 3, finished=False)
    monkeypatch.setattr("exptilt.studies.mask_grid.run_masks", lambda *_: stopped)
    with pytest.raises(Stopped, match=r"stopped in DPO beta=0.5 at step 3; give the same command again"):
        frontier(load_grid("grid.yaml", ["output=stopped"]), Console(quiet=True))
