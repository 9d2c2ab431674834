"""Every file in recipes/ is one that can be run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from exptilt.run_folder.folder import RunFolder
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.any_recipe import load_grid, load_recipe
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "recipes").glob("*.yaml"))
DATA = Path(os.environ.get("EXPTILT_DATA", ROOT.parent / "shared" / "data"))
HARMLESS = DATA / "hh_rlhf" / "harmless-base.test.jsonl.gz"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    if "methods" in yaml.safe_load(text):
        assert load_grid(path).methods
        assert f"exptilt frontier recipes/{path.name}" in text
    elif "policies" in yaml.safe_load(text):
        from exptilt.studies.judged_grid_settings import JudgedGrid

        assert len(load(JudgedGrid, path).policies) == 4
        assert f"exptilt judge recipes/{path.name}" in text
    else:
        assert load_recipe(path).output.startswith("runs/")
        assert f"exptilt train recipes/{path.name}" in text
    assert f"`{path.name}`" in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")


def test_hh_runs_on_its_first_rows(tmp_path):
    if not HARMLESS.is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    small = [
        f"output={tmp_path / 'run'}",
        f"data.train={HARMLESS}",
        "data.limit=200",
        "model.config={hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 400, max_positions: 768}",
        "sft.train.epochs=0.2",
        "train.epochs=0.2",
        "evaluate={num_prompts: 4, num_samples: 1, max_new_tokens: 8}",
    ]
    outcome = run_recipe(load(Recipe, ROOT / "recipes" / "hh.yaml", small))
    folder = RunFolder(outcome.folder.path)
    assert outcome.finished
    data = folder.read("data.json")
    rows = {split: data[split]["rows"] for split in ("train", "test")}
    assert sum(rows.values()) == 200
    assert data["train"]["rows_left_out"] | data["train"]["examples_left_out"] == {
        "empty": 1,  # line 87
        "does_not_fit": 1,  # line 180: a reply of some thousand tokens for so small a vocabulary
    }
    accuracy = folder.read("evaluation.json")["accuracy"]["with_reference"]["sum"]
    assert accuracy["n"] <= rows["test"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert "<svg" in (outcome.folder.path / "report.html").read_text(encoding="utf-8")


def test_rloo_speaks_first_and_then_learns_from_what_it_says(tmp_path):
    if not HARMLESS.is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    small = [
        f"output={tmp_path / 'run'}",
        f"data.train={HARMLESS}",
        "data.limit=60",
        "model.config={hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 400, max_positions: 768}",
        "sft.train={epochs: 0.2}",
        "train={max_steps: 2, eval_every: 1, log_every: 1}",
        "batch.size=4",
        "rollout.num_samples=3",
        "rollout.law.max_new_tokens=8",
        "evaluate={num_prompts: 4, num_samples: 1}",
    ]
    outcome = run_recipe(load(Recipe, ROOT / "recipes" / "rloo.yaml", small))
    assert outcome.finished
    evaluation = outcome.folder.read("evaluation.json")
    assert evaluation["reward"].keys() == {"policy_samples", "reference_samples", "gain"}
    assert evaluation["sampling_law"]["max_new_tokens"] == 8
    assert "Reward of own completions" in (outcome.folder.path / "report.html").read_text(encoding="utf-8")


def test_a_reward_model_is_trained_on_the_first_rows(tmp_path):
    if not HARMLESS.is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    small = [
        f"output={tmp_path / 'run'}",
        f"data.train={HARMLESS}",
        "data.limit=120",
        "model.config={hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 400, max_positions: 768}",
        "train.epochs=1",
        "train.eval_every=2",
    ]
    outcome = run_recipe(load(Recipe, ROOT / "recipes" / "reward-model.yaml", small))
    folder = RunFolder(outcome.folder.path)
    assert outcome.finished
    assert folder.run.kept.metric == "eval/accuracy"
    evaluation = folder.read("evaluation.json")
    accuracy = evaluation["accuracy"]["reward_model"]["score"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert evaluation["num_pairs"] == folder.read("data.json")["test"]["kept"]


def test_ultrafeedback_runs_on_rows_of_its_shape(tmp_path, finished):
    """The recipe as it stands on rows as the data set has them, ties and equal answers among them; model and sizes are small."""
    said = lambda text: [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}]  # noqa: E731
    folder = tmp_path / "ultrafeedback"
    folder.mkdir()
    for split, count in (("train_prefs", 24), ("test_prefs", 8)):
        rows = [
            {"prompt": f"{split} {n}?", "prompt_id": str(n), "chosen": said(f"Because {n}."), "rejected": said(f"So {n}!"),
             "messages": said(f"Because {n}."), "score_chosen": 8.0, "score_rejected": 8.0 if n == 3 else 5.0}
            for n in range(count)
        ]  # fmt: skip
        for row in rows:
            for side in ("chosen", "rejected", "messages"):
                row[side][0]["content"] = row["prompt"]
        rows[5]["rejected"] = rows[5]["chosen"]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = [
        f"output={tmp_path / 'run'}", f"model.path={finished.folder / 'model'}", f"data.train={folder}/train_prefs.jsonl",
        "data.split=train", f"data.test={folder}/test_prefs.jsonl", "data.test_split=null", "adapter.rank=2", "batch.size=8",
        "train.eval_every=1", "train.eval_samples=2", "evaluate={num_prompts: 2, max_new_tokens: 4}",
    ]  # fmt: skip
    outcome = run_recipe(load(Recipe, ROOT / "recipes" / "ultrafeedback-lora.yaml", small))
    data = outcome.folder.read("data.json")["train"]
    assert outcome.finished
    assert (data["rows"], data["kept"]) == (24, 22)
    assert data["rows_left_out"] | data["examples_left_out"] == {"identical": 1, "tie": 1}
    assert (outcome.folder.model / "adapter_model.safetensors").is_file()
    assert outcome.folder.run.kept.metric == "eval/loss"


@pytest.mark.slow
def test_rounds_run_on_a_few_prompts(tmp_path):
    if not HARMLESS.is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    small = [
        f"output={tmp_path / 'run'}",
        f"data.train={HARMLESS}",
        "data.limit=40",
        "model.config={hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 400, max_positions: 1536}",
        "sft.train.epochs=0.2",
        "rounds.prompts_per_round=6",
        "rounds.law.max_new_tokens=8",
        "evaluate.num_prompts=4",
    ]
    outcome = run_rounds(load(Recipe, ROOT / "recipes" / "rounds.yaml", small))
    first, second = outcome.folder.run.rounds
    assert (first.status, second.status) == ("trained", "trained")
    assert first.prompts != second.prompts  # the next ones
    assert first.start.num_samples == second.start.num_samples == 24
    assert outcome.folder.run.after_rounds.kl.value > 0
    assert (outcome.folder.model / "model.safetensors").is_file()
