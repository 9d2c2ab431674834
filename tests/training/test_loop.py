"""The loop: what one step does to weights, in which order things are called, and when it ends."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from exptilt.errors import CheckpointError
from exptilt.losses import BCO, DPO, SFT
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints
from exptilt.training.checkpoints.choice import newest_checkpoint
from exptilt.training.checkpoints.read_checkpoint import load_checkpoint
from exptilt.training.guards.stop_if import StopIf
from exptilt.training.loop import train
from exptilt.training.sums import Sums

SGD_LIKE = {"learning_rate": 1e-2, "warmup_ratio": 0.0}


@dataclass
class Record(Callback):
    """Writes down its calls, and may do something at a step."""

    name: str
    calls: list[Any]
    act: dict[int, Any] = field(default_factory=dict)

    def on_start(self, progress: Progress) -> None:
        self.calls.append((self.name, "start", progress.step))

    def after_step(self, progress: Progress, sums: Sums) -> None:
        self.calls.append((self.name, "step", progress.step))
        self.act.get(progress.step, lambda: None)()

    def state(self) -> dict[str, Any]:
        return {"seen": len(self.calls)}

    def restore(self, state: Any) -> None:
        self.calls.append((self.name, "restore", state["seen"]))


def test_hooks_are_called_in_order_and_the_state_of_all_is_kept(make_run, draw_rows):
    calls: list[Any] = []
    rows = draw_rows("pair", 4)
    run = make_run(DPO(), [[rows]] * 2, callbacks=[Record("a", calls), Record("b", calls)])
    place = train(run)
    assert calls == [(n, w, s) for w, s in [("start", 0), ("step", 1), ("step", 2)] for n in "ab"]
    assert (place.step, place.is_last, place.epoch) == (2, True, 1.0)
    state = load_checkpoint(newest_checkpoint(run.checkpoints))
    assert state["callbacks"] == [["Record", {"seen": 6}], ["Record", {"seen": 6}]]
    train(run)
    assert calls[6:] == [("a", "restore", 6), ("b", "restore", 6), ("a", "start", 2), ("b", "start", 2)]


def test_a_forced_resume_may_have_other_callbacks(make_run, draw_rows):
    calls: list[Any] = []
    run = make_run(DPO(), [[draw_rows("pair", 4)]], callbacks=[StopIf(["loss > 9"]), Record("a", calls)])
    train(run)
    train(replace(run, callbacks=[Record("b", calls)]))
    assert calls[-2:] == [("b", "restore", 2), ("b", "start", 1)]


def test_the_gradient_is_scaled_to_the_limit_and_its_own_norm_is_reported(make_run, draw_rows):
    """RMSprop's first step is 10 * lr * sign(g), so the limit shows only in its square average: (limit/norm)^2 of it."""
    rows = draw_rows("completion", 4)
    norms, averages = [], []
    for limit in (1e9, 0.5):
        seen: list[float] = []

        class Watch(Callback):
            def after_step(self, progress: Progress, sums: Sums, seen: list[float] = seen) -> None:
                seen.append(sums.means()["grad_norm"])

        optim = OptimConfig(name="rmsprop", max_grad_norm=limit, **SGD_LIKE)
        run = make_run(SFT(), [[rows]], optim=optim, callbacks=[Watch()], settings=TrainConfig(resume="never"))
        train(run)
        averages.append(sum(float(state["square_avg"].sum()) for state in run.optimizer.state.values()))
        norms += seen
    assert norms[0] == pytest.approx(norms[1])
    assert averages[0] == pytest.approx(0.01 * norms[0] ** 2, rel=1e-4)
    assert averages[1] == pytest.approx(0.01 * 0.5**2, rel=1e-4)


def test_metrics_of_a_step(make_run, draw_rows):
    rows = draw_rows("pair", 4)
    seen: list[dict[str, float]] = []
    tokens: list[float] = []

    class Watch(Callback):
        def after_step(self, progress: Progress, sums: Sums) -> None:
            seen.append(sums.means())
            tokens.append(sums.totals["unique_tokens"][0])

    optim = OptimConfig(learning_rate=1e-2, warmup_ratio=0.5)
    train(make_run(DPO(), [[rows[:1], rows[1:]]] * 4, optim=optim, callbacks=[Watch()]))
    assert [means["lr"] for means in seen] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 5e-3])
    assert set(tokens) == {sum(group.num_tokens for group in rows)}
    assert seen[0]["loss"] > seen[1]["loss"]  # the first step moves weights, too
    assert seen[2]["loss"] < seen[1]["loss"]


def test_stop_leaves_a_checkpoint_of_the_very_step_and_the_state_of_the_loss(make_run, draw_rows):
    rows = draw_rows("pair", 4)
    ask = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    run = make_run(BCO(), [[rows]] * 6, callbacks=[Record("a", [], ask)])
    place = train(run)
    assert (place.step, place.is_last) == (3, False)
    state = load_checkpoint(newest_checkpoint(run.checkpoints))
    assert (state["step"], state["loss"]["num_steps"]) == (3, 3.0)
    assert train(replace(run, callbacks=[])).is_last
    assert run.objective.state["num_steps"] == 6


def test_a_signal_while_a_checkpoint_is_written_does_not_lose_it(make_run, draw_rows, monkeypatch):
    """Asked during a save at step 2, the loop ends there; nothing is written twice."""
    written = []
    real = Checkpoints.save

    def slow(checkpoints, step, state, own):
        written.append(step)
        os.kill(os.getpid(), signal.SIGINT)
        real(checkpoints, step, state, own)

    monkeypatch.setattr(Checkpoints, "save", slow)
    run = make_run(DPO(), [[draw_rows("pair", 4)]] * 5, settings=TrainConfig(save_every=2))
    assert train(run).step == 2
    assert written == [2]


def test_save_every_and_the_end(make_run, draw_rows):
    run = make_run(DPO(), [[draw_rows("pair", 2)]] * 5, settings=TrainConfig(save_every=2, keep_checkpoints=9))
    train(run)
    assert sorted(path.name[-1] for path in run.checkpoints.iterdir()) == ["2", "4", "5"]


def test_changed_identity_is_named(make_run, draw_rows):
    run = make_run(DPO(), [[draw_rows("pair", 2)]])
    train(run)
    changed = replace(run, identity={"data rows": "others"})
    with pytest.raises(CheckpointError, match=r"another data rows; .*train\.resume=never.*train\.resume=force"):
        train(changed)
    assert train(replace(changed, settings=TrainConfig(resume="force"))).step == 1


def test_a_key_that_came_later_keeps_no_checkpoint_from_being_resumed(make_run, draw_rows):
    """A checkpoint without the key was made as the default says; another value is another run."""
    run = make_run(DPO(), [[draw_rows("pair", 2)]])
    train(run)
    later = replace(run, identity={**run.identity, "data.new": "0"}, defaults={"data.new": "0"})
    assert train(later).step == 1
    other = replace(later, identity={**run.identity, "data.new": "1"})
    with pytest.raises(CheckpointError, match=r"another data\.new"):
        train(other)


def test_dropout_follows_the_seed_of_the_run(make_run, draw_rows, tiny_model):
    """Equal seeds give equal weights though the global generator stands elsewhere; another seed gives others."""
    ends = []
    for seed, noise in [(1, 0), (1, 99), (2, 0)]:
        torch.manual_seed(noise)
        model = tiny_model("gpt2", dtype=torch.float32, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)
        run = make_run(
            SFT(), [[draw_rows("completion", 4)]] * 2, model, settings=TrainConfig(resume="never"), seed=seed
        )
        train(replace(run, policy=ScorerFunction(lambda groups, model=model: score(model, groups))))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("wrong", [{"epochs": 0.0}, {"save_every": 0}, {"max_steps": 0}, {"eval_every": -1}])
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)
