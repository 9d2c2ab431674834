"""`import exptilt as xt`: runs from objects, in place of a recipe."""

from __future__ import annotations

import json
import math
import os
import signal

import peft
import pytest
import torch
from datasets import Dataset

import exptilt as xt
from exptilt.policies.fingerprint import fingerprint
from exptilt.runs.first_checks import check_run


def test_the_way_of_the_readme_from_a_model_to_its_evaluation(make_object, tokenizer, pairs, sections):
    model, rows = make_object(), pairs()
    before = fingerprint(model)
    run = xt.train(
        model,
        Dataset.from_list(rows),
        tokenizer=tokenizer,
        loss=xt.DPO(beta=0.1),
        adapter=xt.LoRA(rank=2),
        data={"test_fraction": 0.3},
        **sections,
        quiet=True,
    )
    assert fingerprint(model) == before
    assert run.status == "done"
    assert run.metrics["step"].tolist() == [0, 2]
    assert run.metrics["eval/loss"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert run.metrics["train/loss"].notna().tolist() == [False, True]
    assert list(run.metrics.columns[:2]) == ["step", "epoch"]
    assert 0 < run.evaluation.num_pairs < len(rows)
    assert list(run.samples.columns[:3]) == ["prompt", "policy", "reference"]
    assert run.data.train.kept + run.evaluation.num_pairs == len(rows)
    for page in (run.open_report(browser=False).read_text(), run._repr_html_()):
        assert all(words in page for words in ("It ranks", "KL(policy", run.folder.name))
    other = [{**row, "prompt": row["prompt"] + "!"} for row in rows[:8]]
    result = xt.evaluate(run.model, other, reference=model, tokenizer=tokenizer, loss=xt.DPO(beta=0.1), quiet=True)
    assert result.evaluation.num_pairs == 8
    scored = xt.score(run.model, run.tokenizer, other, reference=model, quiet=True)
    both = scored.pivot_table(index="row", columns="side", values="log_ratio", sort=False)
    margins = (both["chosen"] - both["rejected"]).to_numpy()
    assert margins == pytest.approx(result.margins["log_ratio"].to_numpy(), abs=1e-4)
    accuracy = result.evaluation.accuracy["with_reference"]["sum"].value
    assert accuracy == pytest.approx((margins > 0).mean())


def test_the_same_call_is_the_same_run_and_another_call_another(make_object, tokenizer, pairs, sections):
    def call(**other):
        return xt.train(make_object(), pairs(), tokenizer=tokenizer, quiet=True, report=False, **{**sections, **other})

    run = call()
    assert run.folder.parts[0] == "runs"
    assert run.folder.name.startswith("dpo-")
    written = (run.folder / "run.json").read_text()
    assert call().folder == run.folder
    assert (run.folder / "run.json").read_text() == written
    assert call(loss=xt.DPO(beta=0.2)).folder != run.folder
    assert call(seed=1).folder != run.folder


def test_a_changed_file_is_another_run(pairs, sections, write_rows):
    small = xt.SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64, vocab_size=300)

    def call(rows):
        return xt.train(small, write_rows("pairs.jsonl", rows), quiet=True, report=False, **sections)

    first = call(pairs())
    assert call(pairs()).folder == first.folder
    assert call(pairs(29)).folder != first.folder


def test_a_stopped_run_goes_on_to_the_same_weights(make_object, tokenizer, pairs, sections):
    class Once(xt.Callback):
        """Stops the first time it is called, as SIGTERM would."""

        stops = True

        def after_step(self, progress, sums):
            if Once.stops:
                Once.stops = False
                os.kill(os.getpid(), signal.SIGTERM)

    arguments = {"tokenizer": tokenizer, "quiet": True, "report": False, **sections, "train": {"max_steps": 4}}
    whole = xt.train(make_object(), pairs(), output="whole", **arguments)
    cut = xt.train(make_object(), pairs(), output="cut", callbacks=[Once()], **arguments)
    assert (cut.status, cut.steps) == ("stopped", 1)
    with pytest.raises(xt.ExptiltError, match=r"was made from objects \(model\.path, model\.tokenizer, data\.train\)"):
        xt.load_run("cut").resume()
    with pytest.raises(xt.ExptiltError, match=r"model\.path: memory:model-\w{16}: stands for an object \(model\)"):
        check_run(cut.recipe)  # what `exptilt train cut/config.yaml` does first
    with pytest.raises(xt.ExptiltError, match=r"cut: has no model yet; run\.resume\(\) goes on"):
        cut.model  # noqa: B018
    again = cut.resume()
    assert (again.status, again.steps) == ("done", 4)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_a_run_from_files_is_opened_and_gone_on_with(pairs, sections, write_rows):
    small = xt.SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64, vocab_size=300)
    path = write_rows("pairs.jsonl", pairs())
    run = xt.train(small, path, output="run", quiet=True, report=False, loss="ipo", **sections)
    opened = xt.load_run("run")
    assert opened.recipe == run.recipe
    assert opened.recipe.loss.name == "ipo"
    assert opened.resume().steps == 2


def test_a_recipe_is_laid_over(pairs, sections, write_rows, tmp_path):
    write_rows("pairs.jsonl", pairs())
    (tmp_path / "recipe.yaml").write_text(
        "output: run\nloss: {name: simpo, gamma: 0.5}\ndata: {train: pairs.jsonl, on_tie: drop}\n"
        "model: {config: {hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 64, vocab_size: 300}}\n"
    )
    run = xt.train(
        recipe="recipe.yaml", loss={"beta": 3.0}, data={"on_empty": "drop"}, quiet=True, report=False, **sections
    )
    recipe = run.recipe
    assert (recipe.loss.name, recipe.loss.beta, recipe.loss.gamma) == ("simpo", 3.0, 0.5)
    assert (recipe.data.on_tie, recipe.data.on_empty, recipe.batch.size) == ("drop", "drop", 8)
    (tmp_path / "recipe.yaml").write_text("output: run\nloss: {name: simpo, gama: 0.5}\n")
    with pytest.raises(xt.ExptiltError, match=r"recipe\.yaml line 2: loss\.gama: unknown key"):
        xt.train(recipe="recipe.yaml", rows=pairs(), model="gpt2")


def test_callbacks_and_losses_of_ones_own_are_objects(make_object, tokenizer, pairs, sections):
    class Losses(xt.Callback):
        """Keeps every loss."""

        def __init__(self):
            self.losses = []

        def after_step(self, progress, sums):
            self.losses.append(sums.means()["loss"])

    seen = Losses()
    run = xt.train(make_object(), pairs(), tokenizer=tokenizer, callbacks=[seen], quiet=True, report=False, **sections)
    assert len(seen.losses) == run.steps == 2
    assert seen.losses[0] == pytest.approx(math.log(2), abs=1e-5)


def test_samples_become_preferences_and_rows_again(make_object, tokenizer, pairs, sections):
    model = make_object()
    drawn = xt.sample(model, [row["prompt"] for row in pairs(6)], tokenizer=tokenizer, num_samples=3, quiet=True,
                      law={"max_new_tokens": 5})  # fmt: skip
    assert [one["sample_index"] for one in drawn] == [0, 1, 2] * 6
    rows = xt.pair(drawn, reward=lambda answers: [one.text.count("e") - len(one.text) for one in answers], quiet=True)
    longest = max(drawn[:3], key=lambda one: one["completion"].count("e") - len(one["completion"]))
    assert rows[0]["chosen"] == longest["completion"]
    assert rows[0]["chosen_ids"] == longest["completion_ids"]
    report = xt.doctor(rows, tokenizer=tokenizer, data={"on_empty": "keep", "on_duplicate": "drop"}, quiet=True)
    assert report.train.rows == len(rows)
    opponent = [{**one, "completion": one["completion"] + "!"} for one in drawn]
    table = xt.judge({"drawn": drawn}, {"longer": opponent}, quiet=True).set_index("judge")
    assert table["win_rate"]["longest"] == 0.0
    assert table["verdicts"]["longest"] == 2 * len({(one["prompt"], one["completion"]) for one in drawn})


def test_a_model_is_lent_and_given_back_as_it_was(make_object, tokenizer, pairs):
    model = make_object().train()
    before, attention = fingerprint(model), model.config._attn_implementation
    scored = xt.score(model, tokenizer, pairs(3), quiet=True)
    xt.sample(model, "Question", tokenizer=tokenizer, num_samples=1, law={"max_new_tokens": 2}, quiet=True)
    assert model.training
    assert (fingerprint(model), model.config._attn_implementation) == (before, attention)
    ids = tokenizer(pairs(1)[0]["prompt"], return_tensors="pt").input_ids
    answer = tokenizer(pairs(1)[0]["chosen"], add_special_tokens=False, return_tensors="pt").input_ids
    whole = torch.cat([ids, answer, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
    with torch.no_grad():
        logits = torch.log_softmax(model.eval()(whole).logits[0, :-1], -1)
    own = logits.gather(1, whole[0, 1:, None]).squeeze(1)[ids.shape[1] - 1 :].sum()
    assert scored["logp"][0] == pytest.approx(float(own), abs=1e-4)
    assert scored["tokens"][0] == answer.shape[1] + 1


def test_rows_are_loaded_changed_and_counted(pairs, write_rows):
    path = write_rows("pairs.jsonl", [*pairs(3), "{broken"])
    with pytest.raises(xt.ExptiltError, match=r"pairs\.jsonl:4"):
        xt.load_rows(path)
    kept = xt.load_rows(path, limit=3, format=lambda row: row if "1" in row["prompt"] else None)
    assert [row["prompt"] for row in kept] == [pairs(3)[1]["prompt"]]
    assert json.dumps(xt.load_rows(pairs(2))) == json.dumps(pairs(2))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
def test_an_adapter_is_trained_further_and_measured_against_its_base(make_object, tokenizer, pairs, sections, tmp_path):
    settings = {"quiet": True, "report": False, **sections}
    make_object().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    first = xt.train("base", pairs(), adapter=xt.LoRA(rank=2), **settings)
    second = xt.train(first.model, pairs(), output="second", **settings)
    assert type(second.model).__name__ == "PeftModelForCausalLM"
    assert second.recipe.model.path == second.recipe.adapter.path
    scored = xt.score(second.model, None, pairs(4), reference=first.model, quiet=True)
    assert 0 < scored["log_ratio"].abs().max() < 5
    alone = xt.evaluate(second.model, pairs(4), quiet=True, evaluate={"num_prompts": 0})
    named = xt.evaluate(second, pairs(4), reference="base", quiet=True, evaluate={"num_prompts": 0})
    assert alone.margins["log_ratio"].tolist() == pytest.approx(named.margins["log_ratio"].tolist(), abs=1e-5)
    nameless = peft.get_peft_model(make_object(), peft.LoraConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(
        xt.ExptiltError, match="model: its adapter names no base, so what is trained could not be loaded"
    ):
        xt.train(nameless, pairs(), tokenizer=tokenizer, output="third", **settings)


def test_rounds_begin_from_an_object(make_object, tokenizer, pairs, sections):
    run = xt.train(
        make_object(),
        [{"prompt": row["prompt"]} for row in pairs(8)],
        tokenizer=tokenizer,
        rounds={"num_rounds": 2, "reward": {"kind": "length"}, "num_samples": 2, "law": {"max_new_tokens": 4}},
        quiet=True,
        report=False,
        **{**sections, "evaluate": {"num_prompts": 0}},
    )
    assert run.status == "done"
    assert run.recipe.rounds.num_rounds == 2
    assert run.model.num_parameters() == make_object().num_parameters()


def test_the_doctor_says_which_objective_fits(pairs, capsys):
    rated = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in pairs(8)]
    report = xt.doctor([*rated, {**rated[0], "prompt": "Other?", "label": False}])
    said = " ".join(capsys.readouterr().out.split())
    assert "objective that fits: kto, because" in said
    assert "train: rows (format" in said
    assert (report.train.num_desirable, report.train.num_undesirable) == (8, 1)


def test_a_policy_learns_from_its_own_samples_of_prompts_in_memory(make_object, tokenizer, pairs, sections):
    run = xt.train(
        make_object(),
        [{"prompt": row["prompt"]} for row in pairs(8)],
        tokenizer=tokenizer,
        loss=xt.RLOO(),
        rollout={"reward": {"kind": "length"}, "num_samples": 2, "law": {"max_new_tokens": 4}},
        quiet=True,
        report=False,
        **sections,
    )
    assert (run.status, run.steps) == ("done", 1)  # eight prompts are one batch
    assert fingerprint(run.model) != fingerprint(make_object())
