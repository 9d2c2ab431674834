import time
from dataclasses import replace
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.losses import DPO
from exptilt.planning import probe
from exptilt.planning.probe import StraightLine, Subject, rehearsal, rehearse
from exptilt.runs.run_models import Setup
from exptilt.settings.training_settings import OptimConfig

SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def groups(count, length):
    side = Completion(np.arange(length, dtype=np.int32), np.ones(length, np.bool_))
    return [Group(id=str(n), prompt=np.arange(4, dtype=np.int32), completions=(side, side)) for n in range(count)]


def subject(**changed):
    settings = {
        "architecture": LlamaConfig(**SHAPE), "setup": Setup(), "weights": torch.float32, "device": "cpu",
        "optimizer": OptimConfig(), "loss": DPO(),
        "small": [[groups(1, 3)]] * 4, "large": [[groups(4, 6)]] * 4, "accumulates": False,
        "prompts": [np.arange(3, dtype=np.int32)] * 2, "threads": 1,
    }  # fmt: skip
    return Subject(**{**settings, **changed})


def test_each_kind_of_work_is_timed_alone():
    ticks = iter(range(10_000))
    found = rehearsal(subject(), lambda: float(next(ticks)))
    assert (found.step, found.forward, found.update) == ((1.0, 1.0), (1.0, 1.0), 1.0)
    assert found.draw == 0  # two draws of one tick each: a token more costs nothing


def test_the_first_step_of_each_size_is_not_timed_and_steps_come_small_first(monkeypatch):
    seen = []

    def accumulate(model, micro_batches, *others):
        seen.append(len(micro_batches[0]))
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)

    monkeypatch.setattr(probe, "accumulate", accumulate)
    now = [0.0]
    monkeypatch.setattr(
        probe._Watch, "seconds", lambda self, work, *given: (work(*given), 100.0 * (len(seen) % 4 == 1))[1]
    )
    found = rehearsal(subject(prompts=()), lambda: now[0])
    assert seen == [1] * 4 + [4] * 4
    assert found.step == (0.0, 0.0)


def test_a_step_of_several_micro_batches_is_taken_whole_and_its_time_is_that_of_one():
    ticks = iter(range(10_000))
    found = rehearsal(subject(large=[[groups(2, 6), groups(3, 6)]] * 3), lambda: float(next(ticks)))
    assert (found.step, found.forward, found.update) == ((1.0, 0.5), (1.0, 0.5), 1.0)


def test_peaks_hold_what_every_process_holds(monkeypatch):
    marks = iter([5e9, 6e9, 8e9])
    monkeypatch.setattr(probe, "peak_bytes", lambda: next(marks))
    found = rehearsal(subject(), time.process_time)
    assert found.peak[1] - found.peak[0] == 2e9
    assert found.peak[0] - found.before == 1e9


def test_a_new_process_measures():
    found = rehearse(subject(cpu_time=True))
    assert 0 < found.step[0] < 10
    assert 0 < found.before <= found.peak[0] <= found.peak[1] < 2e9


@pytest.mark.parametrize(("told", "named"), [(b"a\nMemoryError: x\n", "MemoryError: x"), (b"", "for want of memory")])
def test_a_process_that_fails_is_one_line(monkeypatch, told, named):
    failed = CompletedProcess((), returncode=1, stdout=b"", stderr=told)
    monkeypatch.setattr(probe.subprocess, "run", lambda *some, **others: failed)
    with pytest.raises(ModelError, match=rf"a few steps failed here .*{named}.*--gpus 8xH100-80GB") as error:
        rehearse(subject())
    assert "\n" not in str(error.value)


def test_a_peak_is_on_a_line_from_before_where_both_sizes_are_close():
    found = rehearsal(subject(prompts=()), time.process_time)
    near = subject(small=[[groups(4, 5)]] * 3, large=[[groups(4, 6)]] * 3)  # of 56 and of 64 tokens
    close = replace(found, before=1e6, peak=(8e6, 9e6))
    assert close.peak_with(128, near) == pytest.approx(1e6 + 2 * 8e6)
    assert close.peak_with(1, near) == 9e6
    apart = subject(small=[[groups(1, 6)]] * 3, large=[[groups(4, 6)]] * 3)  # of 16 and of 64
    assert close.peak_with(112, apart) == pytest.approx(9e6 + 1e6)


def test_a_line_neither_falls_nor_starts_below_zero():
    assert StraightLine.through([(10, 5.0), (20, 4.0)]) == StraightLine(4.0, 0.0)
    assert StraightLine.through([(10, 1.0), (20, 4.0)]) == StraightLine(0.0, 0.2)
    assert StraightLine(1.0, 2.0).at(10) == 21
