"""What a checkpoint of a run holds, and that it fits or is refused before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from exptilt.errors import CheckpointError
from exptilt.losses import DPO
from exptilt.processes.world import World
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.checkpoints.choice import newest_checkpoint
from exptilt.training.checkpoints.run_state import load_weights, restore, seed_of, state_of, trained_weights
from exptilt.training.loop import train
from exptilt.training.sums import Sums


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


def test_only_what_training_may_change_is_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[1].register_buffer("scratch", torch.zeros(1), persistent=False)
    model[2].bias = model[1].bias  # tied
    kept = trained_weights(model)
    assert sorted(kept) == sorted(
        ["1.weight", "1.bias", "2.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    )
    kept["2.weight"].zero_()
    assert not model[2].weight.any()  # they are the weights, no copies


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adafactor"])
def test_looking_at_an_optimizer_that_has_taken_no_step_takes_none(make_run, draw_rows, name):
    run = make_run(DPO(), [[draw_rows("pair", 4)]], optim=OptimConfig(name=name, weight_decay=0.0))
    before = flat(run.model)
    state = state_of(run, Progress(step=0, num_steps=1, steps_per_epoch=1))
    assert state["optimizer"]["state"] == {}
    assert not run.optimizer.state
    assert torch.equal(flat(run.model), before)


def test_a_process_that_is_new_is_seeded_and_one_that_was_there_goes_on(make_run, draw_rows):
    run = make_run(DPO(), [[draw_rows("pair", 4)]] * 3, seed=5)
    train(run)
    after = torch.rand(3)
    checkpoint = newest_checkpoint(run.checkpoints)
    restore(run, checkpoint)
    assert torch.equal(torch.rand(3), after)
    restore(replace(run, world=World(1, 2)), checkpoint)
    assert torch.initial_seed() == seed_of(5, 1, 3) != seed_of(5, 1)


def test_another_optimizer_is_refused_even_by_force_and_nothing_is_touched(make_run, draw_rows):
    steps = [[draw_rows("pair", 4)]] * 2
    train(make_run(DPO(), steps))
    other = make_run(DPO(), steps, optim=OptimConfig(name="rmsprop"), settings=TrainConfig(resume="force"))
    before = flat(other.model)
    with pytest.raises(CheckpointError, match=r"another optimizer \(AdamW\).*resume=never"):
        train(other)
    assert torch.equal(flat(other.model), before)


def test_a_run_that_was_ended_early_stays_ended(make_run, draw_rows):
    class EndAt(Callback):
        def __init__(self, step: int) -> None:
            self.step = step

        def after_step(self, progress: Progress, sums: Sums) -> None:
            if progress.step == self.step:
                progress.num_steps = progress.step

    run = make_run(DPO(), [[draw_rows("pair", 4)]] * 6, callbacks=[EndAt(3)])
    assert (train(run).step, train(run).step) == (3, 3)
    assert train(replace(run, callbacks=[])).is_last


def test_weights_of_a_checkpoint_go_into_a_model_that_has_them(make_run, draw_rows, tiny_model):
    run = make_run(DPO(), [[draw_rows("pair", 4)]] * 2)
    train(run)
    checkpoint = newest_checkpoint(run.checkpoints)
    fresh = tiny_model(dtype=torch.float32, seed=3)
    load_weights(fresh, checkpoint)
    assert torch.equal(flat(fresh), flat(run.model))
    with pytest.raises(CheckpointError, match="the model has none"):
        load_weights(tiny_model("gpt2"), checkpoint)


def test_eight_bit_state_is_resumed_bit_for_bit(make_run, draw_rows, tiny_model, tmp_path):
    """Matrices of 64 x 64 weights, the smallest whose state bitsandbytes keeps in eight bits; cut after three steps of six."""
    pytest.importorskip("bitsandbytes", reason="the extra `qlora` is not installed")
    ends = []
    for name, stops in (("whole", [6]), ("cut", [3, 6])):
        (tmp_path / name).mkdir()
        for stop in stops:
            model = tiny_model(dtype=torch.float32, hidden_size=64, intermediate_size=64)
            optim = OptimConfig(name="adamw_8bit", learning_rate=1e-2)
            run = make_run(DPO(), [[draw_rows("pair", 4)]] * 6, model, optim, folder=tmp_path / name, num_steps=stop)
            assert train(run).step == stop
        ends.append(flat(run.model))
    kept = {value.dtype for state in run.optimizer.state.values() for value in state.values() if torch.is_tensor(value)}
    assert torch.uint8 in kept
    assert torch.equal(*ends)
