import sys

import numpy as np
import psutil
import pytest

from exptilt.recipes import memory
from exptilt.recipes.memory import given_back, peak_memory


def test_a_processs_peak_counts_what_it_held_for_a_moment():
    before = peak_memory()
    held = np.ones((before - psutil.Process().memory_info().rss) // 8 + 10_000_000)
    assert 70e6 < peak_memory() - before < 100e6
    del held
    assert peak_memory() - before > 70e6


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
