"""Promise 4 where something breaks: a disk, a process, a world of another size. Real processes, over gloo."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import Case, Processes, end_of, finish, killed_again_and_again, same_end

from exptilt.training.checkpoints.choice import is_complete, newest_checkpoint

KILLS = int(os.environ.get("EXPTILT_KILLS", "3"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Twelve steps of full training, a checkpoint every five."""
    return Case(tmp_path / "run", num_steps=12)


def whole_run_of(case: Case, size: int) -> Case:
    """The same, never interrupted."""
    whole = replace(case, folder=case.folder.with_name("whole"), die=None, full=None)
    finish(whole, size)
    return whole


KINDS = {
    "full": {},
    "adapter": {"adapter": True},
    "in the background": {"in_background": True},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_one_process_is_killed_again_and_again(tmp_path, kind):
    """Forty steps with dropout, shuffled, in micro-batches; every third kill inside a save."""
    case = Case(tmp_path / "run", dropout=0.1, **kind)
    hits = killed_again_and_again(case, 1, random.Random(str(kind)), KILLS)
    same_end(whole_run_of(case, 1), case, 1)
    print(hits)


@pytest.mark.parametrize("kind", [{}, {"kind": "fsdp", "adapter": True}], ids=["ddp full", "fsdp adapter"])
def test_two_processes_are_killed_again_and_again(tmp_path, kind):
    case = Case(tmp_path / "run", dropout=0.1, num_steps=20, **kind)
    hits = killed_again_and_again(case, 2, random.Random(str(kind)), KILLS)
    same_end(whole_run_of(case, 2), case, 2)
    print(hits)


@pytest.mark.parametrize(
    "kind",
    [
        {"optimizer": "rmsprop", "loss": "bco"},
        {"kind": "fsdp", "optimizer": "adafactor"},
        {"kind": "fsdp", "adapter": True, "moving": True, "tokens": 1},  # some micro-batches are empty
    ],
    ids=["ddp", "fsdp", "fsdp and a moving reference"],
)
def test_when_a_process_dies_the_other_says_so_and_a_resume_is_the_same_run(case, kind):
    case = replace(case, die=(1, 7), **kind)
    processes = Processes(case, 2)
    assert processes.wait(60) == [2, -9]
    assert "TrainingError: process 0 of 2 lost touch with the others" in processes.errors()[0]
    assert newest_checkpoint(case.folder / "checkpoints").name == "step-00000005"
    finish(replace(case, die=None), 2)
    same_end(whole_run_of(case, 2), case, 2)


def test_one_process_is_asked_to_stop_and_all_stop_at_one_step(case):
    case = replace(case, pause=0.05)
    processes = Processes(case, 2)
    while processes.step < 2:
        time.sleep(0.01)
    os.kill(processes.all[1].pid, signal.SIGTERM)
    assert processes.wait(60) == [0, 0]
    assert not (case.folder / "end-0.pt").exists()
    assert 2 <= int(newest_checkpoint(case.folder / "checkpoints").name[-8:]) < 12
    finish(replace(case, pause=0.0), 2)
    same_end(whole_run_of(replace(case, pause=0.0), 2), case, 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_disk_is_full_all_say_so_and_the_checkpoint_before_stays(case, rank):
    case = replace(case, kind="fsdp", full=(rank, 7), in_background=bool(rank))
    processes = Processes(case, 2)
    assert processes.wait(60) == [2, 2]
    for error in processes.errors():
        assert f"step-00000010: could not be written (process {rank}: File too large; " in error
        assert error.endswith("earlier checkpoints are intact")
    assert [path.name for path in (case.folder / "checkpoints").iterdir()] == ["step-00000005"]
    assert is_complete(case.folder / "checkpoints" / "step-00000005")


def test_a_folder_that_cannot_be_written_is_named(case):
    case.folder.mkdir()
    (case.folder / "checkpoints").write_text("in the way")
    processes = Processes(case, 2)
    assert processes.wait(60) == [2, 2]
    for error in processes.errors():
        assert "checkpoints/step-00000005: could not be written" in error


@pytest.mark.parametrize(
    ("before", "after"),
    [(("ddp", 2), ("ddp", 1)), (("ddp", 1), ("fsdp", 2)), (("fsdp", 2), ("ddp", 1)), (("fsdp", 2), ("ddp", 2))],
    ids=lambda world: f"{world[0]} {world[1]}",
)
def test_a_run_goes_on_in_another_world(case, before, after):
    """Losses of all steps and the weights are those of one process that was never stopped, but for rounding."""
    whole = end_of(whole_run_of(case, 1), 1)[0]
    case = replace(case, kind=before[0], die=(before[1] - 1, 7), adapter=False)
    Processes(case, before[1]).wait(60)
    end = finish(replace(case, kind=after[0], die=None), after[1])
    for found in end:
        assert found["losses"] == pytest.approx(whole["losses"], abs=1e-6)
        assert found["weights"].keys() == whole["weights"].keys()
        for name, weights in whole["weights"].items():
            assert found["weights"][name].numpy() == pytest.approx(weights.numpy(), abs=2e-6)
