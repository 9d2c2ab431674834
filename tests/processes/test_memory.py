import mmap
import time

import psutil
import pytest
import torch

from exptilt.processes import memory
from exptilt.processes.memory import Rise, peak_bytes


def taken(size: int) -> mmap.mmap:
    """So many bytes of fresh memory, which `malloc` might take from what the process kept."""
    held = mmap.mmap(-1, size)
    for begin in range(0, size, 1 << 20):
        held[begin : begin + (1 << 20)] = bytes(len(held[begin : begin + (1 << 20)]))
    return held


def test_a_processs_peak_counts_what_it_held_for_a_moment():
    before = peak_bytes()
    held = taken(before - psutil.Process().memory_info().rss + 80_000_000)
    assert 70e6 < peak_bytes() - before < 100e6
    held.close()
    assert peak_bytes() - before > 70e6


@pytest.mark.parametrize("told", [True, False])
def test_a_rise_is_what_the_work_inside_took_and_not_what_was_held_before(monkeypatch, told):
    if told and not memory._forget_peak():
        pytest.skip("this system keeps no account that can begin anew")
    if not told:  # by looking again and again, as on other systems
        monkeypatch.setattr(memory, "_forget_peak", lambda: False)
    taken(240_000_000).close()
    held = taken(80_000_000)
    with Rise(torch.device("cpu")) as rise:
        own = taken(160_000_000)
        if not told:
            time.sleep(0.5)
        own.close()
    held.close()
    assert 150e6 < rise.bytes < 180e6
