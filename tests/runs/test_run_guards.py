"""Guard rails and `train.best` in real runs, up to what the report concludes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from safetensors.torch import load_file

from exptilt.errors import TrainingError
from exptilt.reports.page import write_report
from exptilt.reports.words.conclusion import run_conclusion
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_contents import read_run
from exptilt.runs.run_recipe import run_recipe


@pytest.fixture
def trained(make_recipe):
    """`trained("key=value", ...)`: the contents of a run's folder and what its console showed."""

    def train(*overrides):
        shown = io.StringIO()
        recipe = make_recipe("evaluate.num_prompts=0", *overrides)
        run_recipe(recipe, Console(file=shown, width=400), page=False)
        return read_run(recipe.folder), shown.getvalue()

    return train


def rows_of(data, held_out):
    """Overrides that train on one file and test on another."""
    return f"data.train={data}", f"data.test={held_out}", "data.test_fraction=0"


def said(run):
    return {caution.name: caution for caution in reversed(run.info.warnings)}


def test_a_run_that_falls_apart_is_not_to_be_used(trained):
    """Every pair is told apart, so accuracy alone says yes; the text of the data is less likely than random tokens."""
    run, _ = trained("optim.learning_rate=0.5", "train.epochs=5")
    cautions = said(run)
    assert cautions["below_uniform"].alarm
    assert cautions["below_uniform"].value < -5.7  # 300 tokens
    answer = run_conclusion(run).answers[0]
    assert (answer.answer, answer.tone) == ("No, do not use it", "bad")
    assert answer.detail.startswith(f"At step {cautions['below_uniform'].step} ")
    assert "No, do not use it" in write_report([run.path]).read_text()


def test_stop_if_alarm_ends_it_and_run_json_says_why(make_recipe):
    recipe = make_recipe("optim.learning_rate=0.5", "train.epochs=5", "train.stop_if=[alarm]")
    with pytest.raises(
        TrainingError, match=r"step \d+: chosen completions have .* train\.stop_if has 'alarm'; lower optim"
    ):
        run_recipe(recipe, page=False)
    info = RunFolder(recipe.folder).run
    assert (info.status, info.warnings[-1].alarm) == ("failed", True)
    assert "train.stop_if has 'alarm'" in info.reason


def test_too_large_a_beta_is_blamed_while_there_is_time(trained):
    """Gradients of exactly zero after a few steps; the learning rate is large too, but of a usual size."""
    run, _ = trained("loss.beta=50", "optim.learning_rate=1e-2", "train.epochs=6")
    caution = said(run)["no_gradient"]
    assert caution.step <= 9  # of 18
    assert caution.advice == "lower loss.beta, now 50"
    assert run_conclusion(run).answers[0].answer == "No, do not use it"


def test_one_pair_for_twenty_epochs(trained, write_rows, pairs):
    data = write_rows("one.jsonl", pairs(1))
    held_out = write_rows("others.jsonl", pairs(4, topic="this"))
    run, _ = trained(*rows_of(data, held_out), "train.epochs=20", "batch.size=1")
    assert (said(run)["repetition"].step, said(run)["repetition"].advice) == (1, "lower train.epochs, now 20")


def test_rows_that_contradict_each_other_are_blamed(trained, write_rows, pairs):
    some = pairs(20)
    reversed_ = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in some]
    data = write_rows("both.jsonl", [*some, *reversed_])
    run, _ = trained(
        f"data.train={data}", "data.test_fraction=0.2", "data.on_conflict=keep", "optim.learning_rate=1e-6"
    )
    assert "flat" not in said(run)
    assert said(run)["contradiction"].advice.startswith("set data.on_conflict=drop")


def swapped(pairs):
    """Held-out rows that say the opposite of the training rows, so that every step makes them worse."""
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs(8, topic="this")]


@pytest.mark.parametrize("loss", ["simpo", "ipo", "dpo"])
def test_nothing_is_learned_by_heart_in_the_first_epoch(trained, write_rows, pairs, loss):
    held_out = write_rows("swapped.jsonl", swapped(pairs))
    data = write_rows("train.jsonl", pairs())
    keys = ["optim.learning_rate=1e-2", "batch.size=2", "train.eval_every=3", f"loss={loss}"]
    run, _ = trained(*rows_of(data, held_out), *keys)
    _, losses = run.series("eval/loss")
    assert losses[-1] > 1.05 * losses[0]
    assert "overfitting" not in said(run)


def test_best_that_keeps_the_untrained_start_says_so(trained, write_rows, pairs, tmp_path):
    held_out = write_rows("swapped.jsonl", swapped(pairs))
    data = write_rows("train.jsonl", pairs())
    keys = [*rows_of(data, held_out), "optim.learning_rate=1e-2", "train.eval_every=2"]
    run, shown = trained(*keys, 'train.best="min eval/loss"')
    assert (run.info.kept.step, run.info.kept.metric, run.info.steps) == (0, "eval/loss", 4)
    assert "train.best kept step 0: no step of 4 was better than the untrained start (eval/loss 0.6931)" in shown
    answer = run_conclusion(run).answers[0]
    assert (answer.answer, answer.tone) == ("No, it is the untrained start", "bad")
    assert "the untrained start" in (run.path / "model" / "README.md").read_text()
    kept = load_file(run.path / "model" / "model.safetensors")
    again, _ = trained(*keys, f"output={tmp_path / 'still'}", "optim.learning_rate=1e-30")
    still = load_file(again.path / "model" / "model.safetensors")
    assert all(float((kept[name] - still[name]).abs().max()) < 1e-20 for name in still)


def test_best_names_the_step_whose_weights_are_judged(trained, write_rows, pairs):
    run, shown = trained(
        "optim.learning_rate=1e-2", "train.epochs=2", "train.eval_every=1", 'train.best="max eval/logps/chosen"'
    )
    steps, values = run.series("eval/logps/chosen")
    best = int(steps[values.index(max(values))])
    assert run.info.kept.step == best
    assert f"the model has the weights of step {best} of 6" in shown
    assert run.series_of_model("eval/logps/chosen")[1][-1] == max(values)
    assert f"{best} (best by eval/logps/chosen)" in write_report([run.path]).read_text()


def test_an_alarm_of_the_supervised_phase_reaches_the_conclusion_the_page_and_run_json(trained):
    """The preferences change little afterwards: without the first phase's alarm the run would look well."""
    run, _ = trained("sft={optim: {learning_rate: 5}, batch: {size: 8}, train: {epochs: 5}}", "train.max_steps=3")
    inner = RunFolder(run.path / "sft").run
    first = inner.alarms[0]
    alarm = run.info.alarms[0]
    assert (alarm.phase, alarm.step, alarm.name) == ("sft", first.step, first.name)
    assert [one.phase for one in run.info.warnings[: len(inner.warnings)]] == ["sft"] * len(inner.warnings)
    answer = run_conclusion(run).answers[0]
    assert (answer.answer, answer.tone) == ("No, do not use it", "bad")
    assert answer.detail.startswith(f"At step {first.step} of the sft phase {first.message}")
    assert f"alarm, sft step {first.step}, {first.name}" in write_report([run.path]).read_text()


def test_a_supervised_phase_that_its_alarm_ends_leaves_the_alarm_in_the_run(make_recipe):
    recipe = make_recipe("sft={optim: {learning_rate: 5}, batch: {size: 8}, train: {epochs: 5, stop_if: [alarm]}}")
    with pytest.raises(TrainingError, match=r"train\.stop_if has 'alarm'"):
        run_recipe(recipe, page=False)
    assert [alarm.phase for alarm in RunFolder(recipe.folder).run.alarms] == ["sft"]
