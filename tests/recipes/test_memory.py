import mmap
import sys
import time

import psutil
import pytest
import torch

from exptilt.recipes import memory
from exptilt.recipes.memory import Rise, given_back
from exptilt.train.throughput import peak_bytes


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


@pytest.mark.skipif(not sys.platform.startswith("linux") or memory._glibc() is None, reason="only glibc keeps blocks")
def test_blocks_taken_inside_are_given_back_at_once_and_the_heap_is_trimmed_at_the_end(monkeypatch):
    calls = []

    class Spy:
        mallopt = staticmethod(lambda name, value: calls.append((name, value)))
        malloc_trim = staticmethod(lambda pad: calls.append("trim"))

    monkeypatch.setattr(memory, "_glibc", lambda: Spy)
    with given_back():
        assert calls == [(-3, 4 << 20)]
    assert calls[1:] == [(-3, 32 << 20), (-1, 1 << 30), "trim"]


def test_without_glibc_the_work_is_done_all_the_same(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    done = []
    with given_back():
        done.append("work")
    assert done == ["work"]


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
