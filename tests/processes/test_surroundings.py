"""A run in a program leaves the program as it was."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch
import transformers

from exptilt.policies.engine import product
from exptilt.policies.engine.product import prefer_onednn
from exptilt.processes.surroundings import is_borrowed, left_as_found


def state() -> list[object]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        transformers.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.get_float32_matmul_precision(),
    ]


@pytest.fixture
def fresh():
    """As a process is before anything was loaded in it."""
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "none"
    yield
    matmul.fp32_precision = before


def work() -> None:
    """What a run may do to its process, and then fail."""
    with left_as_found():
        assert is_borrowed()
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        torch.set_num_threads(torch.get_num_threads() + 1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        transformers.logging.set_verbosity_debug()
        transformers.utils.logging.disable_progress_bar()
        prefer_onednn()
        if torch.backends.mkl.is_available():
            with pytest.raises(RuntimeError):  # the fault that a run left behind
                torch.get_float32_matmul_precision()
        raise KeyError


def test_everything_is_given_back_also_after_an_error(monkeypatch, fresh) -> None:
    monkeypatch.setattr(product, "_is_intel", lambda: False)
    before = state()
    with pytest.raises(KeyError):
        work()
    assert not is_borrowed()
    assert state() == before
