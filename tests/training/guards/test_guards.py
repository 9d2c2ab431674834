"""Guard rails: each fires on the sequence it is for, once, and is silent on a healthy run."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exptilt.errors import TrainingError
from exptilt.settings.training_settings import GUARD_RAILS
from exptilt.training import guards as guards_folder
from exptilt.training.callbacks.callback import Progress
from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.cures import Danger, cures
from exptilt.training.guards.guards import Guards
from exptilt.training.guards.stop_if import StopIf
from exptilt.training.sums import Sums

DPO = Facts(loss="dpo", beta=0.1, start_loss=0.6931, max_grad_norm=1.0)


def pair(chosen, rejected, length=20.0, **other):
    names = {"displacement/chosen": chosen, "displacement/rejected": rejected, "lengths/chosen": length}
    return {"loss": 0.6, "grad_norm": 2.0, "rewards/accuracies": 0.7, **names, **other}


def said(lines, facts=DPO, num_steps=None, steps_per_epoch=None, **settings):
    """The cautions that lines (step, kind, values) give; a line of training stands for the steps before it."""
    found = []
    guards = Guards(facts, found.append, **settings)
    last = num_steps or max(1, lines[-1][0])
    for step, kind, values in lines:
        named = {name.replace("_at_", "/"): value for name, value in values.items()}
        progress = Progress(step, last, steps_per_epoch or last)
        if kind == "train":
            guards.after_step(progress, Sums({name: [value, 1.0] for name, value in named.items()}))
        else:
            guards.on_metrics(progress, {f"eval/{name}": value for name, value in named.items()})
    return found


def train(*values, every=10):
    return [(every * (place + 1), "train", line) for place, line in enumerate(values)]


def test_a_healthy_run_is_left_alone():
    """The numbers of a real DPO run at beta 0.1 on 7,300 pairs of 17 tokens, held-out rows and a KL among them."""
    chosen = [0.0, -0.14, -0.61, -1.4, -2.2, -2.6, -2.9, -3.0, -3.0, -3.0]
    rejected = [0.0, -0.14, -0.66, -1.5, -2.4, -3.0, -3.4, -3.5, -3.5, -3.53]
    losses = [0.6932, 0.6939, 0.694, 0.69, 0.688, 0.685, 0.684, 0.682, 0.681, 0.68]
    lines = [(0, "eval", pair(0.0, 0.0, 17.0, loss=0.69315, kl=0.0))]
    for place, values in enumerate(zip(chosen, rejected, losses, strict=True)):
        lines.append((5 * place + 5, "train", pair(*values[:2], 17.0, loss=values[2], grad_norm=0.7)))
    lines += [(50, "eval", pair(-2.8, -3.4, 17.0, loss=0.6747, kl=2.9))]
    assert said(lines) == []


def test_a_loss_that_does_not_start_where_it_must():
    (caution,) = said([(0, "eval", {"loss": 0.81})])
    assert (caution.name, caution.step, caution.value, caution.limit) == ("start", 0, 0.81, 0.6931)
    assert "dpo has 0.6931 where policy and reference are one model" in caution.message
    assert said([(0, "eval", {"loss": 0.72})]) == []  # 3.9 %: rounding in half precision
    assert said([(0, "eval", {"loss": 0.81})], Facts(loss="sft")) == []
    assert said([(20, "eval", {"loss": 0.2})]) == []


def test_without_held_out_rows_the_first_step_tells():
    found = []
    guards = Guards(DPO, found.append)
    for step in (1, 2):
        guards.after_step(Progress(step, 9, 9), Sums({"loss": [4.0, 2.0]}))
    assert [(caution.name, caution.value) for caution in found] == [("start", 2.0)]


@pytest.mark.parametrize(
    ("chosen", "kl", "limit"),
    [
        (-9.9, None, None),  # less than ten nats says nothing
        (-10.5, None, -10.0),  # 20 tokens: half a nat each
        (-10.5, 4.3, None),  # 2 * 4.3 + 2 may be forced
        (-10.5, 4.0, -10.0),
    ],
)
def test_chosen_falling_faster_than_can_be_forced(chosen, kl, limit):
    facts, sides = Facts(loss="dpo"), pair(chosen, -11.0)
    found = said([(10, "eval", sides if kl is None else {**sides, "kl": kl})], facts, num_steps=100)
    assert [caution.limit for caution in found] == [limit] * (limit is not None)
    if found:
        assert ("train.eval_samples would" in found[0].message) == (kl is None)
        assert "rejected ones 11" in found[0].message


def test_training_lines_are_judged_only_where_nobody_measures_a_kl():
    """A KL that is some steps old explains too little of the fall."""
    lines = [(10, "train", pair(-10.5, -11.0))]
    assert [caution.name for caution in said(lines, num_steps=100)] == ["displacement"]
    assert said([(0, "eval", {"kl": 0.0}), *lines], num_steps=100) == []


def test_a_longer_text_may_fall_further():
    assert said([(10, "train", pair(-49.0, -60.0, length=100.0))], num_steps=100) == []
    assert [one.limit for one in said([(10, "train", pair(-51.0, -60.0, length=100.0))], num_steps=100)] == [-50.0]


def test_drift_at_a_low_beta():
    facts = Facts(loss="dpo", beta=0.01)
    assert said([(10, "train", pair(5.0, -24.0))], facts, 100) == []
    (caution,) = said([(10, "train", pair(5.0, -26.0))], facts, 100)
    assert (caution.name, caution.value, caution.limit) == ("drift", 31.0, 30.0)
    assert "beta=0.01" in caution.message
    assert "loss.beta" in caution.advice


def test_flat_at_a_high_beta_from_half_of_the_run_on():
    lines = train(*[pair(0.01, -0.02)] * 10)
    assert [(one.name, one.step) for one in said(lines, Facts(loss="dpo", beta=5.0))] == [("flat", 50)]
    assert said(train(*[pair(0.04, -0.06)] * 10)) == []
    assert said(lines, num_steps=1000) == []


def test_far_from_the_reference():
    (caution,) = said([(10, "eval", {"kl": 31.0, "sample_length": 62.0})])
    assert (caution.name, caution.value, caution.limit) == ("kl", 31.0, 30.0)
    assert "0.5 a token" in caution.message
    assert said([(10, "eval", {"kl": 29.0})]) == []


def test_a_gradient_that_grew_tenfold_but_not_one_that_was_always_large():
    grown = [pair(-1.0, -2.0, grad_norm=norm) for norm in [2, 2, 2, 5, 21, 22, 23]]
    assert [(one.name, one.value, one.limit) for one in said(train(*grown))] == [("gradient", 21, 20.0)]
    assert said(train(*[pair(-1.0, -2.0, grad_norm=120.0)] * 9)) == []


def test_nothing_left_to_learn():
    told = pair(1.0, -9.0, loss=0.02, **{"rewards/accuracies": 1.0})
    assert [(one.name, one.step) for one in said(train(told, told, told, told))] == [("saturated", 30)]
    assert said(train(told, told)) == []
    assert said(train(*[told | {"loss": 0.1}] * 5)) == []
    assert said(train(*[told | {"rewards/accuracies": 0.99}] * 5)) == []


def held_out(pairs, start=0.6931):
    """(training loss, held-out loss) at steps 10, 20, ...; the run starts at log 2."""
    lines = [(0, "eval", {"loss": start})]
    for place, (loss, other) in enumerate(pairs):
        lines += [(10 * place + 10, "train", {"loss": loss}), (10 * place + 10, "eval", {"loss": other})]
    return lines


HEART = [(0.678, 0.69), (0.62, 0.70), (0.6, 0.72), (0.57, 0.748), (0.56, 0.75)]


def test_learned_by_heart():
    """The losses of a real run of an over-trained small model on 3,700 pairs."""
    (caution,) = said(held_out(HEART), steps_per_epoch=10)
    assert (caution.name, caution.step, caution.value) == ("overfitting", 40, 0.748)
    assert "was 0.69 at step 10" in caution.message
    assert "fell from 0.678 to 0.5967" in caution.message
    assert caution.advice == 'set train.best="min eval/loss" (with train.eval_every) to keep the best weights'
    up = held_out([(0.75, 0.70), (0.8, 0.75), (0.78, 0.74), (0.7, 0.7)])
    assert said(up, steps_per_epoch=10) == []  # nothing was learned by heart
    both = held_out([(0.6, 0.66), (0.5, 0.62), (0.4, 0.61), (0.3, 0.6)])
    assert said(both, steps_per_epoch=10) == []  # both fall


@pytest.mark.parametrize("facts", [DPO, Facts(loss="simpo"), Facts(loss="dpo", own_reference=False)])
def test_nothing_is_learned_by_heart_before_it_is_seen_twice(facts):
    assert said(held_out(HEART), facts, steps_per_epoch=50) == []
    assert [one.name for one in said(held_out(HEART), facts, steps_per_epoch=39)] == ["overfitting"]


def test_training_rows_are_compared_with_themselves():
    """Training rows far below held-out ones throughout, as they may be in SimPO: a level is no change."""
    lines = held_out([(1.0, 2.05), (1.0, 2.1), (1.0, 2.2), (1.01, 2.2)], start=2.0)
    assert said(lines, Facts(loss="simpo"), steps_per_epoch=10) == []
    falls = held_out([(1.0, 2.05), (0.9, 2.1), (0.8, 2.2), (0.7, 2.2)], start=2.0)
    falls.insert(1, (1, "train", {"loss": 1.0}))
    assert [one.name for one in said(falls, Facts(loss="simpo"), steps_per_epoch=10)] == ["overfitting"]


def test_steps_too_large():
    (caution,) = said(held_out([(1.2, 1.1), (1.4, 1.3), (1.3, 1.2), (1.1, 1.0)]))
    assert (caution.name, caution.step) == ("overshoot", 30)  # the last quarter begins
    assert said(held_out([(1.2, 1.1), (1.4, 1.3), (0.9, 0.8), (0.8, 0.77)])) == []  # it came down again


def test_a_loss_far_above_its_start_is_told_at_once_with_the_setting_that_did_it():
    """Beta 50: ten times log 2 at step 4 of 18, as in a real run; the learning rate is ten times the usual one, too."""
    facts = Facts("dpo", 50.0, 0.1, 2e-4, 2e-5, start_loss=0.6931)
    losses = [0.6931, 0.9, 1.9, 7.1, 6.0, 5.0]
    lines = [(step + 1, "train", pair(-0.5, -0.5, loss=loss)) for step, loss in enumerate(losses)]
    (caution,) = said(lines, facts, num_steps=18, every=10)
    assert (caution.name, caution.step, caution.value) == ("overshoot", 4, 7.1)
    assert caution.limit == pytest.approx(3 * 0.6931)
    assert caution.advice == "lower loss.beta, now 50"
    assert said(lines, replace(facts, has_level=False), num_steps=18, every=10) == []  # losses of samples say nothing
    assert said(lines, Facts("dpo", 0.1, 0.1, 2e-4, 2e-5), 18)[0].advice == "lower optim.learning_rate, now 0.0002"


def test_one_advice_for_beta_and_never_its_opposite():
    """The last held-out line of a run: learned by heart, a loss 25 % above its start, and far from the reference."""
    lines = [*held_out(HEART)[:-1], (50, "eval", {"loss": 0.95, "kl": 40.0})]
    found = said(lines, steps_per_epoch=10)
    assert [one.name for one in found] == ["overfitting", "kl"]
    assert [one.advice for one in found][1:] == ["raise loss.beta, now 0.1"]
    lower, raised = (
        Danger(1, name, "", cures(f"{name} loss.beta", "lower optim.learning_rate"), 1, 1)
        for name in ("lower", "raise")
    )
    given = {}
    for danger, expected in ((lower, "lower loss.beta, now 0.1"), (raised, "lower optim.learning_rate")):
        caution, cure = danger.caution(DPO, given)
        given[cure.key] = cure.direction
        assert caution.advice == expected


@pytest.mark.parametrize(
    ("facts", "way", "factor"),
    [
        (Facts("dpo", 0.02, 0.1), "raise loss.beta", 1.0),  # within five times of the usual value
        (Facts("dpo", 0.01, 0.1), "raise loss.beta", 10.0),
        (Facts("dpo", 0.01, 0.1), "lower loss.beta", 1.0),
        (Facts("simpo", 2.0, 2.0), "lower loss.beta", 1.0),
        (Facts("dpo", learning_rate=1e-2, usual_rate=2e-5), "lower optim.learning_rate", 50.0),
        (
            Facts("dpo", learning_rate=1e-3, usual_rate=2e-5),
            "lower optim.learning_rate",
            1.0,
        ),  # usual for a small model
        (Facts("dpo", learning_rate=1e-9, usual_rate=2e-5), "raise optim.learning_rate", 1.0),  # a largest usual one
    ],
)
def test_blame(facts, way, factor):
    assert cures(way)[0].blame(facts) == pytest.approx(factor)


def test_an_objective_without_beta_is_not_told_to_change_it():
    (caution,) = said([(10, "eval", {"kl": 31.0})], Facts(loss="orpo", learning_rate=1e-5))
    assert caution.advice == "lower optim.learning_rate, now 1e-05"


def test_flat_is_not_said_again_when_things_improve():
    lines = train(*[pair(0.001, -0.001)] * 10, *[pair(0.004, -0.004)] * 5, *[pair(0.03, -0.03)] * 5)
    assert [(one.name, one.step) for one in said(lines, Facts(loss="dpo", beta=5.0, usual_beta=0.1))] == [("flat", 100)]


TOKENS = Facts(loss="dpo", vocabulary=1000)  # a uniform guess: -6.908 nats


@pytest.mark.parametrize(
    ("start", "now", "limit"),
    [
        ((-2.0, -2.0), (-6.9, -20.0), None),
        ((-2.0, -2.0), (-7.0, -7.0), -math.log(1000)),
        ((-7.0, -7.0), (-7.4, -9.0), None),  # random weights are there from the start
        ((-7.0, -7.0), (-7.6, -9.0), -7.5),
        ((-2.0, -2.0), (-3.0, -21.0), -3 * math.log(1000)),  # rejected text is meant to fall
    ],
)
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_below_a_uniform_guess(start, now, limit, kind):
    def values(both):
        return dict(zip(("logps_per_token/chosen", "logps_per_token/rejected"), both, strict=True))

    first = (1, "train", values(start)) if kind == "train" else (0, "eval", values(start))
    found = said([first, (5, kind, values(now))], TOKENS, num_steps=100)
    assert [(one.name, one.step, one.alarm) for one in found] == [("below_uniform", 5, True)] * (limit is not None)
    assert [one.limit for one in found] == [pytest.approx(limit)] * (limit is not None)


@pytest.mark.parametrize(("moved", "alarms"), [(0.0, 0), (-9.0, 0), (-11.0, 1)])
def test_rows_that_were_below_a_uniform_guess_from_the_start_are_no_alarm(moved, alarms):
    """A model with random weights that never moved, on a batch of harder rows than the first."""
    first, later = {"logps_per_token/chosen": -7.0}, {"logps_per_token/chosen": -7.9}
    lines = [(1, "train", pair(0.0, 0.0) | first), (5, "train", pair(moved, moved) | later)]
    found = [one for one in said(lines, TOKENS, num_steps=100) if one.name == "below_uniform"]
    assert len(found) == alarms


def test_displacement_beyond_a_stated_size_is_an_alarm():
    """3 nats a token and at least 100; of 20 tokens 100, of 50 tokens 150."""
    assert [one.name for one in said([(5, "train", pair(-99.0, -99.0))], num_steps=100)] == ["displacement"]
    found = said([(5, "train", pair(-101.0, -99.0))], num_steps=100)
    assert [(one.name, one.alarm) for one in found] == [("runaway", True), ("displacement", False)]
    assert [one.name for one in said([(5, "train", pair(-140.0, -99.0, 50.0))], num_steps=100)] == ["displacement"]


def test_what_moved_is_measured_from_the_start_whatever_the_reference():
    """Another reference is 60 nats away before step 1; SimPO has none. Held-out rows are the same at every evaluation."""
    other = Facts(loss="dpo", own_reference=False)
    lines = [(1, "train", pair(-60.0, -10.0)), (2, "train", pair(-60.5, -10.0))]
    assert said(lines, other, num_steps=100) == []
    assert [one.name for one in said(lines, Facts(loss="dpo"), num_steps=100)] == ["displacement"]

    def held(chosen, rejected):
        return {"logps/chosen": chosen, "logps/rejected": rejected, "lengths/chosen": 20.0}

    for facts in (other, Facts(loss="simpo")):
        assert said([(0, "eval", held(-80.0, -80.0)), (9, "eval", held(-89.0, -95.0))], facts, 100) == []
        found = said([(0, "eval", held(-80.0, -80.0)), (9, "eval", held(-185.0, -195.0))], facts, 100)
        assert [(one.name, one.value) for one in found] == [("runaway", -105.0), ("displacement", -105.0)]


def test_a_gradient_of_exactly_zero():
    def steps(*norms, loss=0.0):
        return [(step + 1, "train", {"loss": loss, "grad_norm": norm}) for step, norm in enumerate(norms)]

    plain = Facts(loss="dpo")
    assert said(steps(1.0, 0.0, 0.0, 1e-30, 0.0), plain, num_steps=9) == []
    (caution,) = said(steps(1.0, 0.0, 0.0, 0.0, 0.0), plain, num_steps=9)
    assert (caution.name, caution.step, caution.alarm) == ("no_gradient", 4, True)
    assert caution.advice == "lower optim.learning_rate"
    (caution,) = said(steps(0.0, 0.0), plain)  # all steps there were
    assert (caution.step, caution.advice.split(",")[0]) == (2, "set data.on_tie=drop")
    assert said(steps(0.0, 0.0), Facts(loss="dpo", contradicting=3))[-1].advice.startswith("set data.on_conflict=drop")
    assert said(steps(1.0, 0.0, 0.0, 0.0), Facts(loss="hinge")) == []  # all pairs are told apart: its end
    assert [one.name for one in said(steps(1.0, 0.0, 0.0, 0.0, loss=1.0), Facts(loss="hinge"))] == ["no_gradient"]


def test_after_an_alarm_lesser_dangers_are_not_repeated():
    lines = [(step, "train", pair(-(2.0**step), -(2.0 ** (step + 1)))) for step in range(5, 12)]
    assert [(one.name, one.step) for one in said(lines, Facts(loss="dpo"), num_steps=100)] == [
        *(("displacement", 5), ("drift", 5), ("displacement", 6), ("drift", 6)),
        *(("runaway", 7), ("runaway", 8), ("runaway", 9), ("runaway", 10), ("runaway", 11)),
    ]


def test_few_rows_seen_often_are_told_before_they_are_learned():
    (caution,) = said([(1, "train", {"loss": 0.6})], Facts("dpo", rows=1), num_steps=20, steps_per_epoch=1)
    assert (caution.name, caution.step, caution.advice) == ("repetition", 1, "lower train.epochs, now 20")
    assert "one row is trained on 20 times" in caution.message
    assert said([(1, "train", {"loss": 0.6})], Facts("dpo", rows=1), num_steps=3, steps_per_epoch=1) == []
    assert said([(1, "train", {"loss": 0.6})], Facts("dpo", rows=5000), num_steps=20, steps_per_epoch=1) == []


def test_contradicting_rows_are_blamed_and_not_the_learning_rate():
    found = said(
        [(1, "train", pair(0.0, 0.0)), *train(*[pair(0.01, -0.02)] * 9)], Facts("dpo", 0.1, rows=40, contradicting=20)
    )
    assert [(one.name, one.step) for one in found] == [("contradiction", 1)]
    assert found[0].advice == "set data.on_conflict=drop, or settle the labels"
    assert said([(1, "train", pair(0.0, 0.0))], Facts("dpo", rows=40, contradicting=3), num_steps=100) == []


def test_every_danger_can_end_a_run_and_the_settings_know_their_names():
    with pytest.raises(TrainingError, match=r"step 5: chosen .* 101 nats .*; train\.stop_if has 'alarm'; lower optim"):
        said([(5, "train", pair(-101.0, -99.0))], num_steps=100, stop_on=("alarm",))
    with pytest.raises(TrainingError, match=r"train\.stop_if has 'drift'"):
        said([(5, "train", pair(1.0, -99.0))], num_steps=100, stop_on=("drift",))
    assert said([(5, "train", pair(1.0, -99.0))], num_steps=100, stop_on=("alarm",))[0].name == "drift"
    code = "".join(path.read_text() for path in Path(guards_folder.__path__[0]).glob("*.py"))
    assert set(re.findall(r'name="(\w+)"', code)) == set(GUARD_RAILS)


def drawn(**values):
    return {
        f"rollout/{name}": value
        for name, value in {"entropy": 2.0, "kl": 1.0, "length": 20.0, "reward": 0.1, **values}.items()
    }


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("entropy", {"entropy": 0.15}, "is 0.15 nats a token and was 2"),
        ("kl", {"kl": 31.0}, "are 31 nats from the reference"),
        ("length", {"length": 41.0, "reward": 0.5}, "have 41 tokens and had 20"),
        ("length", {"length": 9.0, "reward": 0.5}, "have 9 tokens and had 20"),
    ],
)
def test_an_online_run_that_collapses_runs_away_or_is_paid_for_length(name, values, words):
    rloo = Facts("rloo", beta=0.1, usual_beta=0.05)
    (caution,) = said(train(drawn(), *[drawn(**values)] * 5, every=1), rloo, num_steps=100)
    assert (caution.name, caution.advice) == (name, "raise loss.beta, now 0.1")
    assert words in caution.message
    assert len(caution.message) < 300


def test_a_healthy_online_run_is_left_alone():
    """RLOO on the exact world, and completions that grow while the reward does not."""
    rloo = Facts("rloo", beta=0.1)
    assert said(train(drawn(), *[drawn(entropy=0.9, kl=2.9, reward=0.9)] * 9, every=1), rloo, num_steps=100) == []
    assert said(train(drawn(), *[drawn(length=50.0, reward=0.05)] * 9, every=1), rloo, num_steps=100) == []
    assert said(train(drawn(length=3.0), *[drawn(length=7.0, reward=0.5)] * 9, every=1), rloo, num_steps=100) == []


def test_a_silent_process_decides_alike_and_says_nothing(caplog):
    assert said([(5, "train", pair(1.0, -99.0))], num_steps=100, speaks=False) == []
    with pytest.raises(TrainingError, match="drift"):
        said([(5, "train", pair(1.0, -99.0))], num_steps=100, speaks=False, stop_on=("drift",))
    assert caplog.records == []


def test_windows_of_a_short_run_are_short_and_survive_a_resume():
    """Of 18 steps each is judged; of 200, every tenth."""
    for num_steps, judged in ((18, [1, 2, 3]), (60, [3]), (1000, [])):
        guards = Guards(DPO, lambda caution: None, every=10)
        for step in (1, 2, 3):
            guards.after_step(Progress(step, num_steps, 9), Sums({"loss": [float(step), 1.0]}))
            again = Guards(DPO, lambda caution: None, every=10)
            again.restore(guards.state())
            guards = again
        assert [line.step for line in guards.history.training] == judged
        if num_steps == 60:
            assert guards.history.training[0].values == {"train/loss": 2.0}
        assert guards.history.start.values == {"train/loss": 1.0}


def test_said_once_and_again_when_it_has_doubled_also_after_a_resume(caplog):
    found = []
    guards = Guards(DPO, found.append)

    def feed(*kls):
        for kl in kls:
            guards.on_metrics(Progress(3, 9, 9), {"eval/kl": kl})

    with caplog.at_level(logging.WARNING):
        feed(31.0, 40.0, 61.9)
        state, guards = guards.state(), Guards(DPO, found.append)
        guards.restore(state)
        feed(61.9, 62.5, 100.0)
    assert [caution.value for caution in found] == [31.0, 62.5]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 3"] * 2
    assert len(guards.history.held_out) == 6


def test_history_forgets_the_middle_but_never_the_best():
    history = History()
    for step in range(60):
        history.add(Line(step, 0.0, {"eval/loss": abs(step - 10)}), held_out=True)
    assert [line.step for line in history.held_out] == [0, 1, 2, 10, *range(41, 60)]


@pytest.mark.parametrize(
    ("condition", "values", "stops"),
    [
        ("loss > 1e6", {"train/loss": 1e7}, True),
        ("loss > 1e6", {"train/loss": 1e6}, False),
        ("loss > 1e6", {"eval/loss": 1e7}, False),
        ("eval/kl > 30", {"eval/kl": 30.5}, True),
        ("rewards/accuracies < 0.4", {"train/rewards/accuracies": 0.3}, True),
        ("train/grad_norm > 5", {"train/grad_norm": 6.0}, True),
        ("grad_norm == 0", {"train/grad_norm": 0.0}, True),
        ("grad_norm == 0", {"train/grad_norm": 1e-30}, False),
        ("loss >= 2", {"train/loss": 2.0}, True),
        ("loss <= 2", {"train/loss": 2.1}, False),
    ],
)
def test_stop_if(condition, values, stops):
    guard = StopIf([condition])
    if not stops:
        guard.on_metrics(Progress(7, 9, 9), values)
        return
    with pytest.raises(
        TrainingError, match=r"step 7: .* is .*, and train\.stop_if says '.*'; .*optim|change the recipe"
    ):
        guard.on_metrics(Progress(7, 9, 9), values)


def test_a_condition_nothing_measures_is_said_once(caplog):
    guard = StopIf(["eval/kl > 30", "losss > 3"])
    for _ in range(2):
        guard.on_metrics(Progress(7, 9, 9), {"eval/loss": 1.0})
        guard.on_metrics(Progress(7, 9, 9), {"train/loss": 1.0})
    first, second = (record.getMessage() for record in caplog.records)
    assert "'eval/kl > 30' can never stop this run" in first
    assert "set train.eval_samples" in first
    assert "measured are train/loss" in second


def scores(spread, accuracy=0.7, loss=0.6):
    return {"loss": loss, "grad_norm": 1.0, "accuracy": accuracy, "spread": spread}


def test_a_reward_model_that_says_the_same_of_everything():
    facts = Facts(loss="bradley_terry", learning_rate=1e-6)
    (caution,) = said(train(*[scores(0.01)] * 6), facts)
    assert (caution.name, caution.value, caution.limit) == ("flat", 0.01, 0.05)
    assert caution.advice == "raise optim.learning_rate, now 1e-06"
    assert said(train(*[scores(0.4)] * 6), facts) == []


def test_a_reward_model_with_nothing_left_to_learn():
    (caution,) = said(train(*[scores(8.0, accuracy=1.0, loss=0.001)] * 6), Facts(loss="bradley_terry"))
    assert caution.name == "saturated"
