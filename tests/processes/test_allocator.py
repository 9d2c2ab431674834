from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exptilt.processes import allocator
from exptilt.processes.allocator import give_back, given_back, keep_freed

GLIBC = pytest.mark.skipif(allocator._glibc() is None, reason="only glibc keeps blocks")
KEEP = 2**31 - 1


class Spy:
    """A C library that writes down what it is told."""

    def __init__(self, most: int = KEEP) -> None:
        self.calls: list[object] = []
        self.most = most

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return int(value <= self.most)

    def malloc_trim(self, pad: int) -> None:
        self.calls.append("trim")


@pytest.fixture
def spy(monkeypatch):
    spy = Spy()
    monkeypatch.setattr(allocator, "_thresholds_are_set", lambda: False)
    monkeypatch.setattr(allocator, "_glibc", lambda: spy)
    return spy


def test_blocks_taken_inside_are_given_back_at_once_and_the_heap_is_trimmed_at_the_end(spy):
    with given_back():
        assert spy.calls == [(-3, 4 << 20)]
    assert spy.calls[1:] == [(-1, KEEP), (-3, KEEP), "trim"]


def test_an_older_glibc_gets_the_most_it_takes(spy):
    spy.most = 32 << 20
    keep_freed()
    assert spy.calls[-1] == (-3, 32 << 20)


def test_what_was_told_otherwise_is_not_changed_but_free_memory_still_goes_back_when_asked(spy, monkeypatch):
    monkeypatch.setattr(allocator, "_thresholds_are_set", lambda: True)
    keep_freed()
    with given_back():
        pass
    assert spy.calls == []
    give_back()
    assert spy.calls == ["trim"]


def test_without_glibc_the_work_is_done_all_the_same(monkeypatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    done = []
    with given_back():
        done.append("work")
    keep_freed()
    give_back()
    assert done == ["work"]


HELD = """
import psutil
from exptilt.processes.allocator import give_back, keep_freed
import torch
keep_freed()
held = lambda: psutil.Process().memory_info().rss
before = held()
torch.ones(12_000_000)
kept = held() - before
give_back()
print(kept, held() - before)
"""


def held(**environment: str) -> list[int]:
    """Bytes a process still holds of 48 MB that it freed, and when it has given back what is free."""
    names = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", HELD], env=names, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@GLIBC
def test_memory_that_was_freed_stays_until_it_is_given_back():
    kept, after = held()
    assert 45e6 < kept < 60e6
    assert after < 10e6


@GLIBC
def test_what_the_environment_says_of_memory_stays():
    kept, _ = held(MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept < 10e6


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which memory asked for huge pages")
def test_what_torch_reads_is_set_before_its_first_allocation():
    """By the room that loads models, and not by `import exptilt`."""
    code = (
        "import os, exptilt; bare = os.environ.get('THP_MEM_ALLOC_ENABLE'); import exptilt.policies.models, torch;"
        "tensor = torch.ones(50_000_000); lines = open('/proc/self/smaps').read().splitlines();"
        "print(bare, os.environ['THP_MEM_ALLOC_ENABLE'], any(' hg' in line for line in lines if line.startswith('VmFlags')))"
    )
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True, env=clean
    )
    assert done.stdout.split() == ["None", "1", "True"]
