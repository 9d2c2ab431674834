"""The door to the disk: whole or not at all, what was there stays, and every library's refusal in the system's words."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from exptilt.disk import (
    append,
    errno_of,
    reason,
    refusals,
    require_space,
    write_folder,
    write_lines,
    write_whole,
    writing,
)
from exptilt.errors import DiskError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    return path


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 20,000 bytes: a real refusal by the system, for every library alike."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_after_any_error_the_file_is_as_it_was_and_nothing_lies_beside_it(file, small_files):
    with pytest.raises(DiskError, match=r"file\.txt: cannot be written: File too large; .* takes no file of this size"):
        write_whole(file, "x" * 30_000)

    def rows():
        yield {"row": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_lines(file, rows())
    assert file.read_text() == "before"
    assert names(file.parent) == ["file.txt"]


@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save({"w": torch.zeros(20_000)}, path),
        lambda path: save_file({"w": torch.zeros(20_000)}, path),
        lambda path: np.savez(path, w=np.zeros(20_000)),
        lambda path: np.zeros(20_000).tofile(path),
    ],
    ids=["torch", "safetensors", "numpy archive", "numpy"],
)
def test_every_library_is_refused_in_one_line(tmp_path, small_files, save):
    with pytest.raises(DiskError) as caught, refusals(tmp_path / "file"):
        save(tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert "File too large" in str(caught.value) or "Input/output error" in str(
        caught.value
    )  # torch does not say which


def test_a_full_disk_is_named_where_the_library_only_says_that_it_failed(tmp_path, monkeypatch):
    error = RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0")
    assert errno_of(error, tmp_path) == errno.EIO
    monkeypatch.setattr("exptilt.disk.free_space", lambda _path: 1000)
    assert reason(error, tmp_path) == "No space left on device; free some space, or write elsewhere"


def test_a_fault_of_the_program_is_no_refusal_of_the_disk(tmp_path):
    with pytest.raises(ValueError, match="seven"), refusals(tmp_path):
        raise ValueError("seven")
    assert errno_of(KeyError("errno")) is None


def test_a_link_is_followed_and_stays(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    write_whole(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"


def test_what_is_write_protected_or_no_file_is_left_alone(file, tmp_path):
    file.chmod(0o444)
    with pytest.raises(DiskError, match="is write-protected"):
        write_whole(file, "after")
    with pytest.raises(DiskError, match="cannot be written: Is a directory"):
        write_whole(tmp_path, "after")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match="is no regular file"):
        write_whole(tmp_path / "pipe", "after")
    assert file.read_text() == "before"


def test_lines_are_added_or_refused(file, small_files):
    append(file, " and after")
    assert file.read_text() == "before and after"
    with pytest.raises(DiskError, match="File too large"):
        append(file, "x" * 30_000)


def test_a_folder_is_replaced_whole_and_what_only_the_old_one_has_moves_along(tmp_path, small_files):
    target = tmp_path / "model"

    def fill(text):
        return lambda folder: (folder / "weights").write_text(text)

    write_folder(target, fill("one"))
    (target / "notes").write_text("mine")
    (target / "stale").write_text("old weights")
    with pytest.raises(DiskError, match="model: cannot be written: File too large"):
        write_folder(target, fill("x" * 30_000))
    assert (target / "weights").read_text() == "one"
    write_folder(target, fill("two"), lambda name: name != "stale")
    assert names(target) == ["notes", "weights"]
    assert (target / "weights").read_text() == "two"
    assert names(tmp_path) == ["model"]


def test_a_stream_of_bytes_takes_its_name_at_the_end(tmp_path):
    with writing(tmp_path / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"half"


def test_what_the_disk_has_no_room_for_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    require_space(tmp_path / "not" / "there", 1, "a byte")
    monkeypatch.setattr("exptilt.disk.free_space", lambda _path: 3_000_000_000)
    with pytest.raises(DiskError, match=r"checkpoints take 12 GB and the disk has 3 GB left; free some space"):
        require_space(tmp_path, 12e9, "checkpoints")
