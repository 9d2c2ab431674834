from __future__ import annotations

import os
import subprocess
import sys
import time

SCRIPT = """
import os, sys, time
from datetime import timedelta
import torch.distributed as dist
from exptilt.processes.world import World

rank, meeting, ending = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{meeting}", timeout=timedelta(seconds=2))

def work():
    time.sleep(5 if ending == "done" else 1)  # longer than processes wait for an exchange
    if ending == "killed":
        os._exit(9)
    return ("rows", rank)

print(World.joined().first_before_others(work), flush=True)
"""


def two_processes(folder, ending):
    """What two processes say and their exit statuses, and how long the second went on behind the first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(folder / "meet"), ending],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    said = [both[0].communicate(timeout=100)]
    ended = time.monotonic()
    said.append(both[1].communicate(timeout=100))
    return said, [process.returncode for process in both], time.monotonic() - ended


def test_others_wait_for_the_first_longer_than_for_an_exchange(tmp_path):
    said, statuses, _ = two_processes(tmp_path, "done")
    assert statuses == [0, 0], said[1][1][-1000:]
    assert [out.strip() for out, _ in said] == ["('rows', 0)", "('rows', 1)"]


def test_others_do_not_wait_for_a_first_process_that_died(tmp_path):
    _, statuses, seconds = two_processes(tmp_path, "killed")
    assert statuses[0] == 9
    assert statuses[1] not in (0, None)
    assert seconds < 60
