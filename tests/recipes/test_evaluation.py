from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from exptilt.data.prepare import prepare
from exptilt.errors import CheckpointError, ConfigError, DataError, ModelError
from exptilt.policies.models import ModelConfig, load_model, load_tokenizer
from exptilt.policies.scoring import score
from exptilt.recipes.evaluation import evaluate_run, print_summary
from exptilt.recipes.run_folder import RunFolder


def test_it_finds_what_training_found(finished, capsys):
    folder = RunFolder(finished.folder)
    before = folder.read("evaluation.json")
    (folder.path / "evaluation.json").unlink()
    found = evaluate_run(finished.folder, [])
    assert folder.read("evaluation.json") == found
    for family, forms in before["accuracy"].items():
        for form, estimate in forms.items():
            assert found["accuracy"][family][form]["value"] == estimate["value"]
    assert found["kl"]["value"] == pytest.approx(before["kl"]["value"], abs=1e-4)
    out, err = capsys.readouterr()
    assert "accuracy with reference, sum" in out
    assert max(map(len, (line for line in out.splitlines() if "written" not in line))) <= 80
    assert "Loading weights" not in err


def test_accuracy_is_the_share_of_pairs_ranked_as_labelled(finished):
    tokenizer = load_tokenizer(ModelConfig(path=str(finished.folder / "model")))
    groups = prepare(finished.data, tokenizer, "pair", 64).test
    sums = {}
    for name in ("model", "sft/model"):
        with torch.no_grad():
            sums[name] = score(load_model(ModelConfig(path=str(finished.folder / name))), groups).sum().view(-1, 2)
    ratio = sums["model"] - sums["sft/model"]
    accuracy = evaluate_run(finished.folder, [])["accuracy"]
    assert accuracy["with_reference"]["sum"]["value"] == pytest.approx(
        (ratio[:, 0] > ratio[:, 1]).float().mean().item()
    )
    plain = sums["model"]
    assert accuracy["without_reference"]["sum"]["value"] == pytest.approx(
        (plain[:, 0] > plain[:, 1]).float().mean().item()
    )
    assert accuracy["with_reference"]["sum"]["n"] == len(groups)


def test_other_rows_and_another_policy_get_files_of_their_own(finished, write_rows, pairs):
    own = (finished.folder / "evaluation.json").read_bytes()
    other = write_rows("other.jsonl", pairs(12, "that"))
    found = evaluate_run(finished.folder, [f"data.test={other}", "evaluate.num_prompts=0"])
    assert found["accuracy"]["with_reference"]["sum"]["n"] == 12
    assert json.loads((finished.folder / "evaluation-other.json").read_text()) == found
    reference = finished.folder / "sft" / "model"
    evaluate_run(finished.folder, ["evaluate.num_prompts=2"], reference)
    measured = RunFolder(finished.folder).read("evaluation-pairs-sft.json")
    assert measured["kl"]["value"] == pytest.approx(0.0, abs=1e-5)  # the reference against itself
    assert (finished.folder / "evaluation.json").read_bytes() == own


def test_what_cannot_be_measured_is_one_line(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is not a run folder"):
        evaluate_run(tmp_path / "empty", [])
    with pytest.raises(ConfigError, match="unknown key; did you mean 'loss'"):
        evaluate_run(finished.folder, ["los=ipo"])
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        evaluate_run(finished.folder, [f"data.test={tmp_path / 'none.jsonl'}"])
    with pytest.raises(DataError, match=r"no held-out rows; name some with data\.test"):
        evaluate_run(finished.folder, ["data.test_fraction=0"])
    with pytest.raises((CheckpointError, ModelError), match="empty"):
        evaluate_run(finished.folder, [], tmp_path / "empty")
    (finished.folder / "model").rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="there is no model; finish the run with `exptilt train` first"):
        evaluate_run(finished.folder, [])


def test_the_summary_shows_accuracy_and_kl_with_intervals(finished, capsys):
    print_summary(RunFolder(finished.folder))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "accuracy with reference, sum",
        "accuracy without reference, sum",
        "longest wins",
        "KL, nats",
    ]
    assert all("[" in line for line in lines[1:])
    print_summary(RunFolder(replace(finished, output=str(finished.folder / "sft")).folder))
    assert capsys.readouterr().out == ""
