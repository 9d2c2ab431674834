"""Runs on masks killed at any moment end bitwise the same; two processes do what one does."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from exptilt.runs.mask_run import run_masks
from exptilt.settings.load import dump

QUIET = Console(quiet=True)
PLACES = {
    "saving": "/checkpoints/step-00000004",
    "keeping the best": "/best",
    "the model": "/model",
    "measuring": "/mask_evaluation.json",
    "drawing": "/pictures/02.png",
}
"""Where a process is killed: right after this has taken its name."""


def start(environment: dict[str, str], place: str, recipe: str) -> None:
    """Run a recipe in this process, and die where it is said."""
    import os

    os.environ |= environment
    torch.set_num_threads(1)

    def deadly(rename: Any) -> Any:
        def renamed(source: Any, target: Any) -> Any:
            done = rename(source, target)
            if place and str(target).endswith(place):
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return renamed

    os.replace, Path.rename = deadly(os.replace), deadly(Path.rename)
    from exptilt.settings.load import load
    from exptilt.settings.mask_settings import MaskRecipe

    run_masks(load(MaskRecipe, recipe), QUIET, page=False)


def processes(recipe, place: str = "", size: int = 1, first_alone: bool = True) -> list[int | None]:
    """Exit codes of processes that run a recipe; the first one dies."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exptilt.runs.mask_run"])
    path = recipe.folder.with_suffix(".yaml")
    path.write_text(dump(recipe))
    meeting: dict[str, str] = {}
    if size > 1:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": str(size)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if meeting else {} for rank in range(size)]
    started = [
        context.Process(target=start, args=(meeting | ranks[at], place if at == 0 else "", str(path)))
        for at in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


def left(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "per_second", "memory")
    kept = [{key: value for key, value in line.items() if not any(part in key for part in clock)} for line in lines]
    names = ["model/model.safetensors", "mask_evaluation.json", *(f"pictures/{at:02d}.png" for at in range(6))]
    return {"metrics": kept} | {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_killed_anywhere_a_run_ends_bitwise_the_same(here, recipe_of):
    best = ('train.best="max eval/dice"', "data.units=all")
    whole, cut = (recipe_of(f"output={here / name}", *best) for name in ("whole", "cut"))
    run_masks(whole, QUIET, page=False)
    for place in PLACES.values():
        assert processes(cut, place) == [-signal.SIGKILL]
    run_masks(cut, QUIET, page=False)
    assert left(cut.folder) == left(whole.folder)


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_resume(here, recipe_of):
    alone, both, cut = (recipe_of(f"output={here / name}") for name in ("alone", "both", "cut"))
    run_masks(alone, QUIET, page=False)
    assert processes(both, size=2) == [0, 0]
    expected, found = left(alone.folder), left(both.folder)
    assert len(found["metrics"]) == len(expected["metrics"]) == 9  # six steps; held-out rows at 0, 3 and 6
    for one, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (alone.folder, both.folder)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
    first, second = processes(cut, PLACES["saving"], size=2)
    assert first == -signal.SIGKILL
    assert second == 1
    assert processes(cut, size=2) == [0, 0]
    assert left(cut.folder) == found
