import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from exptilt.data.groups import Completion, Group
from exptilt.losses import DPO
from exptilt.planning.arithmetic import Load, Manner, forward_flops, step_flops
from exptilt.planning.model_size import model_size
from exptilt.planning.phases import Costs
from exptilt.planning.probe import Rehearsal, StraightLine, Subject
from exptilt.runs.run_models import Setup
from exptilt.settings.training_settings import OptimConfig

LLAMA = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)


def group(length):
    side = Completion(np.zeros(length, np.int32), np.ones(length, np.bool_))
    return Group(id="a", prompt=np.zeros(3, np.int32), completions=(side, side))


def costs(devices, prompts):
    """A step takes 1 s and a nanosecond an operation, scoring a tenth of both."""
    small, large = [[[group(4)]]] * 4, [[[group(9)], [group(9)]]] * 4  # the larger steps have two micro-batches
    size, manner = model_size(LLAMA), Manner()
    seconds = [1 + 1e-9 * step_flops(size, Load.of(some[0][0]), manner) for some in (small, large)]
    scoring = [0.1 + 1e-10 * forward_flops(size, Load.of(some[0][0])) for some in (small, large)]
    subject = Subject(
        architecture=LLAMA, setup=Setup(), weights=torch.float32, device="cpu", optimizer=OptimConfig(), loss=DPO(),
        small=small, large=large,
        accumulates=False, prompts=prompts, threads=1,
    )  # fmt: skip
    found = Rehearsal(step=tuple(seconds), forward=tuple(scoring), update=0.5, draw=0.2, before=0.0, peak=(1.0, 1.0))
    return Costs.measured(size, manner, subject, found, devices)


def approx(line):
    return pytest.approx((line.start, line.slope))


def test_a_rehearsal_gives_lines_over_operations_and_devices_share_the_slope():
    one, two = costs(1, [np.zeros(1)] * 4), costs(2, [np.zeros(1)] * 4)
    assert (one.step.start, one.step.slope) == approx(StraightLine(1, 1e-9))
    assert (two.step.start, two.step.slope) == approx(
        StraightLine(1, 5e-10)
    )  # each device has micro-batches of its own
    assert (two.forward.start, two.forward.slope) == approx(StraightLine(0.05, 5e-11))
    assert (one.update, two.update) == (0.5, 0.5)
    assert one.drawing(8, 10) == pytest.approx(10 * 0.2 * 8 / 4)
    load = Load(groups=2, tokens=25, counted=10, pairs=50)
    assert one.scoring(load, at_once=10) == pytest.approx(3 * 0.1 + 1e-10 * forward_flops(one.size, load))


def test_without_prompts_a_drawn_token_costs_what_scoring_one_does():
    alone = costs(1, [])
    assert alone.drawing(1, 10) == pytest.approx(10 * (0.1 + 1e-10 * forward_flops(alone.size, Load(1, 1, 1, 0))))
