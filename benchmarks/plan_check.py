"""How far `exptilt plan` is from what runs then take: step time and peak memory of small recipes, planned and measured here.

python benchmarks/plan_check.py [--cases full lora]

Time is CPU seconds with one thread, of the steps of one pass but the first, which also makes the optimizer's state. Memory
is a process's peak above what it was with its libraries and tokenizer loaded. Each run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from workloads import SHAPES, WORKLOADS, rows_of, write_setting

_STEPS = 8

CASES: dict[str, tuple[str, str, list[str]]] = {
    "tiny model": ("tiny", "hh", ["batch.size=32"]),
    "full": ("7m-32k", "hh", []),
    "full, bfloat16": ("7m-32k", "hh", ["train.precision=bfloat16"]),
    "lora": ("7m-32k", "hh", ["adapter.rank=8"]),
    "long answers": ("7m-32k", "ultrafeedback", []),
    "long answers, 2048 tokens at once": ("7m-32k", "ultrafeedback", ["batch.tokens=2048"]),
    "long answers, checkpointing": ("7m-32k", "ultrafeedback", ["train.gradient_checkpointing=true"]),
    "long prompts, coupled loss": ("7m-32k", "tldr", ["loss.name=aot"]),
}
"""Shape, workload, keys."""


def recipe_of(folder: Path, keys: list[str]) -> Any:
    from exptilt.settings.load import load
    from exptilt.settings.recipe import Recipe

    own = [
        f"output={folder}/run",
        f"model.path={folder}/model",
        f"data.train={folder}/rows.jsonl",
        "batch.size=8",
        f"train.max_steps={_STEPS}",
        "train.epochs=1000",
        "train.save_every=1000",
        "train.resume=never",
        "reference.cache=false",
        "optim.warmup_ratio=0",
    ]
    return load(Recipe, None, [*own, *keys])


def run(folder: Path, keys: list[str]) -> None:
    """In a process of its own: train, and print what it took."""
    from rich.console import Console
    from turns import forget_peak, peak_bytes, resident_bytes

    from exptilt.processes.world import World
    from exptilt.run_folder.folder import RunFolder
    from exptilt.runs.run_tokenizer import find_tokenizer
    from exptilt.runs.session import Session
    from exptilt.training.callbacks.callback import Callback

    ends: list[float] = []

    class Clock(Callback):
        def after_step(self, *_: Any) -> None:
            ends.append(time.process_time())

    torch.set_num_threads(1)
    recipe = recipe_of(folder, keys)
    find_tokenizer(recipe.model, recipe.data, recipe.folder)
    before = resident_bytes()
    forget_peak()
    place = RunFolder(recipe.folder)
    place.begin(recipe)
    place.write("run.json", {})
    Session(recipe, place, Console(quiet=True), World.alone(), [Clock()]).train()
    print(json.dumps({"seconds": (ends[-1] - ends[0]) / (len(ends) - 1), "peak": peak_bytes() - before}))


def plan(folder: Path, keys: list[str]) -> None:
    """In a process of its own: plan, and print seconds of a step and bytes at the peak."""
    from exptilt.planning.devices import parse_fleet
    from exptilt.planning.planner import Planner

    torch.set_num_threads(1)
    found = Planner(recipe_of(folder, keys), parse_fleet("cpu"), cpu_time=True).plan()
    print(json.dumps({"seconds": found.phases[-1].step_seconds, "peak": found.peak}))


def alone(what: str, folder: Path, keys: list[str]) -> tuple[float, float]:
    """Seconds of a step and bytes at the peak, as a new process says them."""
    command = [sys.executable, __file__, what, str(folder), *keys]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_environment())
    found = json.loads(lines.stdout.splitlines()[-1])
    return found["seconds"], found["peak"]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    if sys.argv[1:2] in (["--run"], ["--plan"]):
        {"--run": run, "--plan": plan}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| case | step planned, s | measured | error | peak planned, MB | measured | error |\n|" + "---|" * 7,
        flush=True,
    )
    for name in options.cases:
        shape, workload, keys = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            # As many rows as the steps take, so that no draw of them decides the comparison.
            rows = rows_of(WORKLOADS[workload], SHAPES[shape].vocabulary, 64)
            write_setting(place, SHAPES[shape], rows, torch.float32)
            guess, truth = alone("--plan", place, keys), alone("--run", place, keys)
        cells = [f"{guess[0]:.3g} | {truth[0]:.3g} | {guess[0] / truth[0] - 1:+.0%}"]
        cells.append(f"{guess[1] / 1e6:.0f} | {truth[1] / 1e6:.0f} | {guess[1] / truth[1] - 1:+.0%}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
