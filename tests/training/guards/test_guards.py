"""Guard rails: each fires on the sequence it is for, once, and is silent on a healthy run."""

from __future__ import annotations

import logging

import pytest

from exptilt.errors import TrainingError
from exptilt.training.callbacks.callback import Progress
from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.guards import Guards, StopIf
from exptilt.training.sums import Sums

DPO = Facts(loss="dpo", beta=0.1, start_loss=0.6931, max_grad_norm=1.0)


def pair(chosen, rejected, length=20.0, **other):
    names = {"displacement/chosen": chosen, "displacement/rejected": rejected, "lengths/chosen": length}
    return {"loss": 0.6, "grad_norm": 2.0, "rewards/accuracies": 0.7, **names, **other}


def said(lines, facts=DPO, num_steps=None):
    """The cautions that lines (step, kind, values) give."""
    found = []
    guards = Guards(facts, found.append)
    last = num_steps or lines[-1][0]
    for step, kind, values in lines:
        guards.on_metrics(
            Progress(step, last, last), {f"{kind}/{name.replace('_at_', '/')}": v for name, v in values.items()}
        )
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


def held_out(pairs):
    """(training loss, held-out loss) at steps 10, 20, ...; the run starts at log 2."""
    lines = [(0, "eval", {"loss": 0.6931})]
    for place, (loss, other) in enumerate(pairs):
        lines += [(10 * place + 10, "train", {"loss": loss}), (10 * place + 10, "eval", {"loss": other})]
    return lines


def test_learned_by_heart():
    """The losses of a real run of an over-trained small model on 3,700 pairs."""
    (caution,) = said(held_out([(0.678, 0.69), (0.62, 0.70), (0.6, 0.72), (0.57, 0.748), (0.56, 0.75)]))
    assert (caution.name, caution.step, caution.value) == ("overfitting", 40, 0.748)
    assert "was 0.69 at step 10" in caution.message
    assert "train.best" in caution.advice
    assert said(held_out([(0.75, 0.70), (0.8, 0.75), (0.78, 0.74), (0.7, 0.7)])) == []  # nothing was learned by heart
    assert said(held_out([(0.6, 0.66), (0.5, 0.62), (0.4, 0.61), (0.3, 0.6)])) == []  # both fall


def test_steps_too_large():
    (caution,) = said(held_out([(1.2, 1.1), (1.4, 1.3), (1.3, 1.2), (1.1, 1.0)]))
    assert (caution.name, caution.step) == ("overshoot", 30)  # the last quarter begins
    assert said(held_out([(1.2, 1.1), (1.4, 1.3), (0.9, 0.8), (0.8, 0.77)])) == []  # it came down again


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
