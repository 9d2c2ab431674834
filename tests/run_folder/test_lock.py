"""The lock of a folder, between processes and inside one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest

from exptilt.errors import CheckpointError
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.ownership import LOCK_FILE

HOLD = """
import sys
from pathlib import Path
from exptilt.run_folder.lock import claimed
with claimed(Path(sys.argv[1]), "run", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder, resampling="alone"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), resampling], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_told_who_holds_the_folder(tmp_path):
    process = holder(tmp_path / "run")
    told = rf"process {process.pid} on {socket.gethostname()} works in it since 20.*; wait for it, stop it, or set"
    with pytest.raises(CheckpointError, match=told), claimed(tmp_path / "run", "run"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(CheckpointError, match=told), claimed(tmp_path / "link", "run"):
        pass
    process.communicate("")
    with claimed(tmp_path / "run", "run") as caution:
        assert caution is None


def test_who_measures_shares_the_folder_with_others_who_measure_and_not_with_a_run(tmp_path):
    process = holder(tmp_path / "run", "shared")
    with claimed(tmp_path / "run", "run", shared=True) as caution:
        assert caution is None
    with (
        pytest.raises(CheckpointError, match="another process of exptilt works in it"),
        claimed(tmp_path / "run", "run"),
    ):
        pass
    process.communicate("")


def test_one_process_cannot_be_in_a_folder_twice_and_may_come_again(tmp_path):
    with claimed(tmp_path / "run", "run"):
        with pytest.raises(CheckpointError, match="this process already works in it"), claimed(tmp_path / "run", "run"):
            pass
        code = "import sys; sys.argv[1:] = [{!r}, 'alone']\n".format(str(tmp_path / "run")) + HOLD
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} on" in done.stderr  # the refusal inside did not give the lock back
    with claimed(tmp_path / "run", "run"):
        assert json.loads((tmp_path / "run" / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_file_system_without_locks_is_said_and_does_not_stop_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with claimed(tmp_path / "run", "run") as caution:
        assert "its file system cannot lock files (No locks available)" in caution
        assert (tmp_path / "run" / LOCK_FILE).exists()


def test_work_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    """A folder that was there stays, and so does one that something was written to."""
    there = tmp_path / "there"
    there.mkdir()

    def fails(folder, *files):
        with claimed(folder, "evaluation"):
            for name in files:
                (folder / name).write_text("{}")
            raise ZeroDivisionError

    for folder, files in ((there, []), (tmp_path / "new", []), (tmp_path / "written", ["result.json"])):
        with pytest.raises(ZeroDivisionError):
            fails(folder, *files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "written"]
    with claimed(tmp_path / "new", "evaluation"):
        pass
    assert (tmp_path / "new").exists()
