"""What the loop itself costs, on the demo's model: a step's time that is neither forward, backward nor optimizer.

    python benchmarks/loop.py [--steps 60] [--threads 1]

A real run from a recipe (64 pairs a step, width 96, 3 layers, prompts of 6 tokens, completions of 20, a line of
metrics.jsonl every 5 steps), its parts timed from outside. Times are of the processor. One checkpoint is timed beside
it, by the wall clock, as long as training waits for it: how often it is paid for is `train.save_every`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from exptilt.losses import DPO
from exptilt.policies import scoring
from exptilt.processes.world import World
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.session import Session
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.training import loop, step
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints
from exptilt.training.checkpoints.run_state import random_state, state_of
from exptilt.training.run import Run

MODEL_PART = "forward, backward, optimizer"
"""The loss's own formula and the freeing of gradients among them."""
MODEL = SmallModel(hidden_size=96, num_layers=3, num_heads=4, vocab_size=265, max_positions=64)


def rows(path: Path, count: int) -> None:
    """Preferences in bytes: prompts of 6, completions of about 20."""
    draw = random.Random(0)

    def text(size: int) -> str:
        return "".join(draw.choices("abcdefghij", k=size))

    lines = [
        {"prompt": text(6), "chosen": text(draw.randint(14, 26)), "rejected": text(draw.randint(14, 26))}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def session(folder: Path, steps: int) -> Session:
    """The run of a recipe, ready to train."""
    rows(folder / "rows.jsonl", 64 * 20)
    recipe = Recipe(
        output=str(folder / "run"),
        model=ModelConfig(config=MODEL),
        data=DataConfig(train=str(folder / "rows.jsonl")),
        loss=DPO(),
        batch=BatchConfig(size=64),
        optim=OptimConfig(learning_rate=5e-4),
        train=TrainConfig(epochs=1000.0, max_steps=steps, log_every=5, save_every=100_000),
    )
    RunFolder(recipe.folder).begin(recipe)
    return Session(recipe, RunFolder(recipe.folder), Console(quiet=True), World.alone())


class Clock:
    """Adds up the time spent in named parts, without what parts inside them take."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.inner = [0.0]
        self.began: list[float] = []

    def begin(self) -> None:
        """Start a part."""
        self.began.append(time.process_time())
        self.inner.append(0.0)

    def end(self, name: str) -> None:
        """End the part that was started last."""
        total = time.process_time() - self.began.pop()
        self.spent[name] += total - self.inner.pop()
        self.inner[-1] += total

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            try:
                return work(*args, **kwargs)
            finally:
                self.end(name)

        return timed


def watch(run: Run, clock: Clock) -> None:
    """Put the clock around the parts of a run."""
    DPO.__call__ = clock.around(MODEL_PART, DPO.__call__)  # type: ignore[method-assign]
    scoring.pack = clock.around("packing rows", scoring.pack)  # type: ignore[attr-defined]
    policy: Any = run.policy
    backward = policy.backward
    policy.backward = clock.around(
        MODEL_PART, lambda groups, loss_of: backward(groups, clock.around("metrics", loss_of))
    )
    run.optimizer.zero_grad = clock.around(MODEL_PART, run.optimizer.zero_grad)  # type: ignore[method-assign]
    run.optimizer.step = clock.around(MODEL_PART, run.optimizer.step)  # type: ignore[method-assign]
    batches: Any = run.batches
    object.__setattr__(run, "batches", _Timed(batches, clock))
    step._norm = clock.around("gradient norm", step._norm)
    for callback in run.callbacks:
        callback.after_step = clock.around(type(callback).__name__, callback.after_step)  # type: ignore[method-assign]
    loop._one_step = clock.around("the rest of a step", loop._one_step)


class _Timed:
    def __init__(self, batches: Any, clock: Clock) -> None:
        self.num_steps = batches.num_steps
        self.step = clock.around("batches", batches.step)


def main() -> None:
    """Print the parts of a step."""
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as name:
        run = session(Path(name), chosen.steps)._run()
        clock = Clock()
        watch(run, clock)
        place = loop.train(run)
        total = sum(clock.spent.values())
        print(f"torch {torch.__version__}, {chosen.threads} thread(s), {chosen.steps} steps of 64 pairs")
        for part, spent in clock.spent.most_common():
            print(f"{part:28} {1e3 * spent / chosen.steps:8.2f} ms {100 * spent / total:6.2f} %")
        print(f"{'the loop itself':28} {'':11} {100 * (1 - clock.spent[MODEL_PART] / total):6.2f} %")
        for background in (False, True):
            checkpoints = Checkpoints(Path(name) / "timed", in_background=background)
            spent = 0.0
            for step in range(10):
                began = time.perf_counter()
                checkpoints.save(step, state_of(run, place), random_state())
                spent += time.perf_counter() - began
                checkpoints.settle()
            print(f"a checkpoint{' in the background' if background else '':18} {1e2 * spent:8.2f} ms")


if __name__ == "__main__":
    main()
