from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from exptilt.data.prepared import prepare
from exptilt.errors import CheckpointError, ConfigError, DataError, ModelError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.scoring import score
from exptilt.reports.page import write_report
from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import AdapterConfig, ModelConfig
from exptilt.verbs.evaluate import evaluate, evaluate_run

WORDS = ("red", "blue", "green", "good", "bad", "tall", "short", "wet", "dry")


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
    assert max(len(line) for line in out.splitlines() if "written" not in line) <= 80
    assert out.splitlines()[0] == f"{found['num_prompts']} prompts: too few to tell any accuracy from chance"
    assert "where the probability went" in out
    assert "reward for each token, data" in out
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
    evaluate_run(finished.folder, ["evaluate.num_prompts=2"], str(reference))
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
        evaluate_run(finished.folder, [], str(tmp_path / "empty"))
    (finished.folder / "model").rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="there is no model; finish the run with `exptilt train` first"):
        evaluate_run(finished.folder, [])


def test_the_summary_shows_accuracy_and_kl_with_intervals(finished, capsys):
    print_summary(RunFolder(finished.folder))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "accuracy with reference, sum",
        "accuracy without reference, sum",
        "longest wins",
        "KL, nats",
    ]
    assert all("[" in line for line in lines[1:5])
    assert " ".join(lines[5:]).startswith("Intervals cover other prompts, not other seeds of the training")
    print_summary(RunFolder(replace(finished, output=str(finished.folder / "sft")).folder))
    assert capsys.readouterr().out == ""


@pytest.fixture
def adapter(finished, tmp_path):
    """An adapter on the run's reference that changes what it says."""
    base = load_model(ModelConfig(path=str(finished.folder / "sft" / "model")))
    model = with_adapter(base, AdapterConfig(rank=2, targets=("q_proj", "v_proj")))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.5, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_any_model_is_measured_on_any_rows_without_a_run(finished, write_rows, pairs, tmp_path, capsys):
    rows = write_rows("others.jsonl", pairs(15, "that"))
    model, other = str(finished.folder / "model"), str(finished.folder / "sft" / "model")
    settings = [f"data.train={rows}", "evaluate={num_prompts: 2, num_samples: 1, max_new_tokens: 6}"]
    found = evaluate(model, settings, reference=other)
    folder = finished.folder / "model-on-others"
    assert f"written: {folder / 'evaluation.json'}" in capsys.readouterr().out
    assert json.loads((folder / "evaluation.json").read_text()) == found
    # The same numbers as the run's own evaluation of these rows.
    own = evaluate_run(finished.folder, [f"data.test={rows}", *settings[1:]])
    assert found["accuracy"] == own["accuracy"]
    assert found["kl"]["value"] == pytest.approx(own["kl"]["value"], abs=1e-5)
    assert found["reference"] == {"identity": own["reference"]["identity"], "source": other}
    assert "calibration" not in found  # nobody said what beta it was trained with
    assert "calibration" in evaluate(model, [*settings, "loss.beta=0.3"], reference=other)
    page = write_report([folder])
    html = page.read_text()
    assert "Pairs" in html
    assert "model-on-others" in html
    command = json.loads((folder / "run.json").read_text())["command"]
    assert command.startswith(f"exptilt evaluate {model} data.train={rows}")
    assert f"--reference {other}" in command
    paired = json.loads(write_report([folder, folder], tmp_path / "two").with_suffix(".json").read_text())["paired"]
    assert paired[0]["num_pairs"] == 15


def test_without_a_reference_it_says_so_and_measures_what_needs_none(finished, write_rows, pairs, tmp_path, capsys):
    rows = write_rows("others.jsonl", pairs(12))
    settings = [f"data.test={rows}", "evaluate={num_prompts: 2, num_samples: 1, max_new_tokens: 6}"]
    found = evaluate(str(finished.folder / "model"), settings, output=tmp_path / "here")
    assert "no reference: name one with --reference" in capsys.readouterr().out
    assert list(found["accuracy"]) == ["without_reference"]
    assert found["num_pairs"] == 12
    assert found["reference"] is None
    assert "kl" not in found
    assert (tmp_path / "here" / "data.json").exists()
    assert "policy" in (tmp_path / "here" / "samples.jsonl").read_text()
    write_report([tmp_path / "here"])


def test_an_adapter_is_measured_against_its_base(finished, adapter, write_rows, pairs, tmp_path):
    rows = write_rows("others.jsonl", pairs(12))
    settings = [f"data.train={rows}", "evaluate={num_prompts: 3, num_samples: 2, max_new_tokens: 6}"]
    found = evaluate(str(adapter), settings)
    base = finished.folder / "sft" / "model"
    assert found["reference"]["source"] == str(base.resolve())
    assert found["kl"]["value"] > 0.001
    where = tmp_path / "adapter-on-others"
    margins = [json.loads(line) for line in (where / "evaluation-margins.jsonl").read_text().splitlines()]
    tokenizer = load_tokenizer(ModelConfig(path=str(base)))
    groups = prepare(DataConfig(train=str(rows)), tokenizer, "pair", 64).train
    sums = []
    for model in (load_model(ModelConfig(path=str(adapter))), load_model(ModelConfig(path=str(base)))):
        with torch.no_grad():
            sums.append(score(model, groups).sum().view(-1, 2))
    ratio = sums[0] - sums[1]
    assert [row["log_ratio"] for row in margins] == pytest.approx((ratio[:, 0] - ratio[:, 1]).tolist(), abs=1e-4)
    merged = load_model(ModelConfig(path=str(adapter))).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    again = evaluate(str(tmp_path / "merged"), settings, reference=str(base))
    assert again["accuracy"] == found["accuracy"]
    assert again["kl"]["value"] == pytest.approx(found["kl"]["value"], rel=1e-3)


def test_a_reference_that_is_not_the_one_of_the_training_is_refused(finished):
    start = load_model(ModelConfig(path=str(finished.folder / "sft" / "model")))
    tokenizer = load_tokenizer(ModelConfig(path=str(finished.folder / "sft" / "model")))
    with torch.no_grad():
        next(start.parameters()).add_(0.01)
    start.save_pretrained(finished.folder / "sft" / "model")
    tokenizer.save_pretrained(finished.folder / "sft" / "model")
    with pytest.raises(
        CheckpointError, match=r"was trained from a reference with identity .* put the old weights back"
    ):
        evaluate(str(finished.folder), [])
    named = evaluate(str(finished.folder), ["evaluate.num_prompts=0"], reference=str(finished.folder / "sft" / "model"))
    assert (finished.folder / "evaluation-pairs-sft.json").exists()
    assert named["reference"]["source"].endswith("sft/model")


def test_what_cannot_be_measured_without_a_run_is_one_line(finished, tmp_path, write_rows, pairs):
    rows, model = write_rows("others.jsonl", pairs(4)), str(finished.folder / "model")
    with pytest.raises(ConfigError, match=r"for a model, name the rows too, e\.g\. data\.train=pairs\.jsonl"):
        evaluate(model, [])
    with pytest.raises(ConfigError, match="kto is not trained on pairs"):
        evaluate(model, [f"data.train={rows}", "loss=kto"])
    with pytest.raises(CheckpointError, match="--policy needs a run"):
        evaluate(model, [f"data.train={rows}"], policy=model)
    with pytest.raises(ModelError, match="no such folder"):
        evaluate(str(tmp_path / "nowhere"), [f"data.train={rows}"])
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a model folder"):
        evaluate(str(tmp_path / "file"), [f"data.train={rows}"])
    with pytest.raises(CheckpointError, match="a file is in its way"):
        evaluate(model, [f"data.train={rows}", "evaluate.num_prompts=0"], output=tmp_path / "file" / "here")


def test_several_references_at_once_have_a_file_each_and_stand_beside_each_other(finished, tmp_path, capsys):
    models = [str(finished.folder / "sft" / "model"), str(finished.folder / "model")]
    found = evaluate(str(finished.folder), ["evaluate.num_prompts=0"], reference=models, output=tmp_path / "both")
    alone = evaluate(str(finished.folder), ["evaluate.num_prompts=0"], reference=models[0], output=tmp_path / "one")
    assert list(found) == models
    assert found[models[0]]["accuracy"] == alone["accuracy"]
    # Against itself every log-ratio is 0, a tie, which counts one half.
    assert found[models[1]]["accuracy"]["with_reference"]["sum"]["value"] == 0.5
    assert len(list((tmp_path / "both").glob("evaluation-*[!s].json"))) == 2
    assert "against sft" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="their files would have one name"):
        evaluate(str(finished.folder), [], reference=[models[0], models[0]])


@pytest.mark.parametrize("prompts", [3, 1])
def test_held_out_ratings_that_share_a_prompt_count_by_prompt(make_recipe, write_rows, prompts, capsys):
    """KTO needs rows of other prompts to train, and none to be measured; samples are drawn once for each prompt."""
    recipe = make_recipe("loss=kto", "train.max_steps=1", "evaluate.num_prompts=8")
    run_recipe(recipe, page=False)
    rated = [
        {
            "prompt": [{"role": "user", "content": f"Is it {WORDS[n % prompts]}?"}],
            "completion": [{"role": "assistant", "content": f"Yes, {WORDS[n]}."}],
            "label": n % 2 == 0,
        }
        for n in range(9)
    ]
    capsys.readouterr()
    found = evaluate_run(recipe.folder, [f"data.test={write_rows('rated.jsonl', rated)}", "data.test_fraction=0"])
    assert f"{prompts} prompt{'s' * (prompts > 1)}: too few to tell any accuracy from chance" in capsys.readouterr().out
    assert found["kl"]["n"] == found["lengths"]["policy_samples"]["n"] == prompts
    assert (found["kl"]["low"] is None) == (prompts == 1)


def test_rewardbench_2_and_multiple_choice_need_no_setting(finished, write_rows, capsys):
    """Wrong candidates of one question are ties, which are counted and in no accuracy; best of four has the questions."""
    chosen = [{"prompt": f"Is it {word}?", "chosen": [f"Yes, {word}."], "subset": "Math", "id": word} for word in WORDS]
    rows = [{**row, "rejected": [f"No {n}." for n in "abc"]} for row in chosen]
    found = evaluate_run(finished.folder, [f"data.test={write_rows('rb2.jsonl', rows)}"])
    assert (found["num_pairs"], found["num_ties"]) == (27, 27)
    assert (found["best_of"]["num_questions"], found["best_of"]["sections"]["Math"]["n"]) == (9, 9)
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out of accuracies: 27 ties (p_chosen 0.5)." in said
    assert "best of candidates, Math" in said

    options = [f" {n}" for n in "abcd"]
    asked = [{"question": f"Is it {w}?", "choices": options, "answer": n % 4} for n, w in enumerate(WORDS)]
    found = evaluate_run(finished.folder, [f"data.test={write_rows('choice.jsonl', asked)}"])
    assert found["answers"].keys() == {"before", "after"}
    for when in ("before", "after"):
        assert found["answers"][when]["accuracy"]["n"] == 9
        assert found["answers"][when]["calibration"]["error"]["coverage"] is not None
    page = write_report([finished.folder]).read_text()
    assert "Answers right, before" in page.split("Further evaluations")[1]
