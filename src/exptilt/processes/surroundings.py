"""What a run borrows of its process, and gives back: the same program may do something else afterwards.

precision of matrix products    torch's, for oneDNN (see policies/engine/product.py)
random generators               Python's, NumPy's, torch's
signal handlers                 SIGINT, SIGTERM
threads                         torch's number of them
logging                         levels and progress bars of transformers
memory that was freed           glibc's thresholds (see processes/allocator.py)
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from exptilt.processes.allocator import as_usual

_borrowed = 0


def is_borrowed() -> bool:
    """Whether somebody will give the process back as it was, so that it may be changed for speed."""
    return _borrowed > 0


@contextmanager
def left_as_found() -> Iterator[None]:
    """Whatever happens inside, the process is afterwards as it was before."""
    with ExitStack() as back:
        back.enter_context(_borrowing())
        _precision(back)
        _random(back)
        _signals(back)
        _logging(back)
        back.callback(torch.set_num_threads, torch.get_num_threads())
        back.enter_context(as_usual())
        yield


@contextmanager
def _borrowing() -> Iterator[None]:
    global _borrowed
    _borrowed += 1
    try:
        yield
    finally:
        _borrowed -= 1


def _precision(back: ExitStack) -> None:
    """Torch refuses to tell one precision for all once two libraries have different ones."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None:
        back.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)


def _random(back: ExitStack) -> None:
    back.callback(random.setstate, random.getstate())
    back.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the one other code may use
    back.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_available():
        back.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _signals(back: ExitStack) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:  # one that C code installed cannot be put back
            back.callback(signal.signal, number, handler)


def _logging(back: ExitStack) -> None:
    back.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
    shown = transformers_logging.is_progress_bar_enabled()
    back.callback(transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # our own bars say where a run stands
