from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exptilt.processes import cores
from exptilt.processes.cores import quotas, settle_threads, usable_cores


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups by hand: `groups(lines of /proc/self/cgroup)` gives their root."""
    monkeypatch.setattr(cores, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")

    def make(*lines: str) -> Path:
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / "cgroup"

    return make


def test_every_limit_above_a_process_is_read(groups):
    root = groups("0::/user/job")
    written(root / "user" / "job", cpu__max="max 100000")
    written(root / "user", cpu__max="150000 100000")
    written(root, cpu__max="800000 100000")
    assert list(quotas(root, root.parent / "own")) == [1.5, 8.0]


def test_limits_of_the_first_version_are_read(groups):
    root = groups("4:memory:/x", "3:cpu,cpuacct:/x")
    written(root / "cpu,cpuacct" / "x", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    written(root / "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert list(quotas(root, root.parent / "own")) == [0.5]


def test_a_quota_limits_threads_and_what_a_user_chose_stays(groups, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    root = groups("0::/")
    settle_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    assert usable_cores() == 64
    written(root, cpu__max="150000 100000")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert usable_cores() == 2


def test_the_command_line_settles_threads_before_torch(tmp_path):
    """Asked of libgomp itself, which prints what it took from the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    program = (
        "import sys; sys.argv = ['exptilt', '--help']\n"
        "from exptilt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "import torch"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '3000'" in done.stderr
