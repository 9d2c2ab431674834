"""A small run in a world of real processes that are forked from a server with torch in memory; for tests and by hand.

Each process does what `exptilt train` does after its data are read: the loop, checkpoints, sharding, adapters.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel

from exptilt.data.batching import Batches, pack, shares
from exptilt.data.groups import Completion, Group
from exptilt.errors import ExptiltError
from exptilt.losses import BCO, DPO
from exptilt.policies.adapters import with_adapter
from exptilt.policies.policy import Policy
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score_all
from exptilt.policies.sharding import shard
from exptilt.processes.world import World
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.model_settings import AdapterConfig
from exptilt.settings.training_settings import OptimConfig, ParallelConfig, TrainConfig
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.moving_reference import MovingReference
from exptilt.training.checkpoints.choice import newest_checkpoint
from exptilt.training.checkpoints.run_state import trained_weights
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run
from exptilt.training.sums import Sums
from exptilt.types import LogProbs

SHAPE = {
    **{"vocab_size": 23, "n_positions": 64, "n_embd": 8, "n_layer": 2, "n_head": 2},
    **{"bos_token_id": 1, "eos_token_id": 2},
}


@dataclass(frozen=True)
class Case:
    """What is run."""

    folder: Path
    kind: str = "ddp"
    """ddp, or fsdp; with one process ddp is plain."""
    adapter: bool = False
    dropout: float = 0.0
    optimizer: str = "adamw"
    num_steps: int = 40
    tokens: int = 40
    """Per micro-batch."""
    save_every: int = 5
    in_background: bool = False
    loss: str = "dpo"
    moving: bool = False
    """The reference follows the policy, every third step."""
    pause: float = 0.0
    """Seconds each step takes longer, so that a kill can be aimed."""
    die: tuple[int, int] | None = None
    """Process and step: there it kills itself."""
    full: tuple[int, int] | None = None
    """Process and step: from there on its disk is full."""


@dataclass
class Watch(Callback):
    """Keeps every step's mean loss, and does what the case asks at a step."""

    case: Case
    rank: int
    losses: list[float] = field(default_factory=list)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Count, and act."""
        self.losses.append(sums.means()["loss"])
        if self.rank == 0:
            (self.case.folder / "step").write_text(str(progress.step))
        if self.case.pause:
            time.sleep(self.case.pause)
        if self.case.die == (self.rank, progress.step):
            os.kill(os.getpid(), 9)
        if self.case.full == (self.rank, progress.step):
            _fill_disk()

    def state(self) -> dict[str, Any]:
        """The losses so far."""
        return {"losses": list(self.losses)}

    def restore(self, state: Any) -> None:
        """Go on with them."""
        self.losses = list(state["losses"])


def _fill_disk() -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def rows(num: int = 21) -> list[Group]:
    """Pairs of unequal lengths."""
    rng = np.random.default_rng(5)

    def ids(most: int) -> Any:
        return rng.integers(3, 23, size=rng.integers(1, most)).astype(np.int32)

    def side() -> Completion:
        drawn = ids(8)
        return Completion(drawn, np.ones(len(drawn), dtype=bool))

    return [Group(id=f"row {number}", prompt=ids(6), completions=(side(), side())) for number in range(num)]


@dataclass
class Dealt:
    """The batches of a run, dealt to processes."""

    batches: Batches
    world: World
    tokens: int

    @property
    def num_steps(self) -> int:
        """Per epoch."""
        return self.batches.num_steps

    def step(self, step: int) -> Sequence[Sequence[Group]]:
        """Of this process."""
        return shares(pack(self.batches.groups(step), self.tokens), self.world.size)[self.world.rank]


def run_of(case: Case, world: World) -> Run:
    """The run of one process."""
    torch.manual_seed(0)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), case.dropout)
    model: Any = GPT2LMHeadModel(GPT2Config(**SHAPE, **drop))
    if case.adapter:
        model = with_adapter(model, AdapterConfig(rank=2, dropout=case.dropout), seed=1)
    data = rows()
    model.eval()
    known = dict(zip([row.id for row in data], score_all(model, data), strict=True))
    moving = MovingReference(model, copy.deepcopy(model).requires_grad_(False), 0.5, 3) if case.moving else None
    if case.kind == "fsdp":
        for one in (model, *([moving.model] if moving else [])):
            shard(one, ParallelConfig(kind="fsdp"), torch.float32)
    optim = OptimConfig(name=case.optimizer, learning_rate=5e-3, warmup_ratio=0.1)
    optimizer = build_optimizer(optim, model)
    loss = {"dpo": DPO(), "bco": BCO()}[case.loss]
    batches = Batches(data, BatchConfig(size=8, tokens=case.tokens), seed=3, world_size=world.size)
    return Run(
        model=model,
        objective=Objective(loss),
        policy=Policy(model),
        reference=moving or ScorerFunction(lambda groups: LogProbs.cat([known[group.id] for group in groups])),
        batches=Dealt(batches, world, case.tokens),
        optimizer=optimizer,
        schedule=build_schedule(optim, optimizer, case.num_steps),
        settings=TrainConfig(save_every=case.save_every, save_async=case.in_background),
        max_grad_norm=1.0,
        num_steps=case.num_steps,
        folder=case.folder,
        identity={"rows": "these"},
        callbacks=[Watch(case, world.rank), *([moving] if moving else [])],
        seed=9,
        world=world,
    )


class InfiniteSlope(torch.autograd.Function):
    """The same values, with an infinite gradient where `bad`."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(bad)
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (bad,) = context.saved_tensors
        return torch.where(bad, torch.inf, gradient), None


def work(rank: int, size: int, case: Case, meeting: Path) -> None:
    """One process: train, then leave the whole weights and all losses in the folder; an error is left in a file."""
    torch.set_num_threads(1)
    case.folder.mkdir(exist_ok=True)
    if size > 1 or case.kind == "fsdp":
        where = f"file://{meeting}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        run = run_of(case, World.joined())
        place = train(run)
        weights = whole_weights(run.model)
        if place.is_last:
            torch.save(
                {"weights": weights, "losses": run.callbacks[0].state()["losses"]}, case.folder / f"end-{rank}.pt"
            )
    except ExptiltError as error:
        (case.folder / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        sys.stderr.close()  # the test reads the file
        os._exit(2)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """Of what is trained; all processes call it together."""
    return {name: _whole(tensor) for name, tensor in trained_weights(model).items()}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def together(size: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `work(world, *args)` returns in each of `size` processes that are joined; a hang ends after a minute."""
    context = _forks()
    where = [folder / f"{rank}.pt" for rank in range(size)]
    processes = [
        context.Process(target=_one_of, args=(rank, size, folder / "meet", work, where[rank], args))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(path, weights_only=False) for path in where]


def _one_of(rank: int, size: int, meeting: Path, work: Callable[..., Any], where: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    meet = {"init_method": f"file://{meeting}", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=rank, world_size=size, **meet)
    torch.save(work(World.joined(), *args), where)
    dist.destroy_process_group()


def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exptilt.runs.run_recipe", "peft", "torch.distributed.fsdp"])
    return context


class Processes:
    """`size` processes of one case."""

    def __init__(self, case: Case, size: int) -> None:
        self.case = case
        context = _forks()
        case.folder.mkdir(parents=True, exist_ok=True)
        for left in (*case.folder.glob("error-*"), *case.folder.glob("meet*"), *case.folder.glob("step")):
            left.unlink()
        meeting = case.folder / f"meet-{os.urandom(4).hex()}"
        self.all = [context.Process(target=work, args=(rank, size, case, meeting)) for rank in range(size)]
        for process in self.all:
            process.start()

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Their exit codes."""
        for process in self.all:
            process.join(seconds)
        return [process.exitcode for process in self.all]

    def kill(self) -> None:
        """All at once."""
        for process in self.all:
            process.kill()
        self.wait()

    @property
    def step(self) -> int:
        """Steps this attempt has done."""
        try:
            return int((self.case.folder / "step").read_text())
        except (OSError, ValueError):
            return 0

    @property
    def are_alive(self) -> bool:
        """Whether all of them still run."""
        return all(process.is_alive() for process in self.all)

    def errors(self) -> list[str]:
        """What they said."""
        return [path.read_text() for path in sorted(self.case.folder.glob("error-*"))]


def end_of(case: Case, size: int) -> list[dict[str, Any]]:
    """What each process was left with at the end."""
    return [torch.load(case.folder / f"end-{rank}.pt") for rank in range(size)]


def finish(case: Case, size: int) -> list[dict[str, Any]]:
    """Run a case to its end."""
    processes = Processes(case, size)
    codes = processes.wait()
    assert codes == [0] * size, (codes, processes.errors())
    return end_of(case, size)


def kill_once(case: Case, size: int, rng: random.Random, *, inside_a_save: bool) -> str:
    """Start a case, kill it at a random moment; returns where it was hit: "step", "save", or "" if it was quicker."""
    folder = case.folder / "checkpoints"
    before = set(folder.glob(".writing-*"))
    newest = newest_checkpoint(folder)
    target = (int(newest.name[-8:]) if newest else 0) + rng.randint(0, 9)
    processes = Processes(case, size)
    while processes.are_alive:
        if set(folder.glob(".writing-*")) - before if inside_a_save else processes.step >= target:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.01 if inside_a_save else 0.03))
    hit = processes.are_alive
    if size > 1 and rng.random() < 0.5:
        processes.all[rng.randrange(size)].kill()  # the others must end by themselves
        codes = processes.wait(60)
        assert None not in codes, codes
    else:
        processes.kill()
    if not hit:
        return ""
    return "save" if set(folder.glob(".writing-*")) - before else "step"


def killed_again_and_again(case: Case, size: int, rng: random.Random, kills: int) -> dict[str, int]:
    """Kill a case so many times, every third time inside a save, and let it come to its end."""
    hits = {"step": 0, "save": 0, "": 0}
    for number in range(kills):
        hits[kill_once(case, size, rng, inside_a_save=number % 3 == 2)] += 1
        if (case.folder / "end-0.pt").exists():
            break
    finish(case, size)
    return hits


def same_end(one: Case, other: Case, size: int) -> None:
    """Bit for bit, in every process."""
    for first, second in zip(end_of(one, size), end_of(other, size), strict=True):
        assert first["losses"] == second["losses"]
        assert first["weights"].keys() == second["weights"].keys()
        for name, weights in first["weights"].items():
            assert weights.numpy().tobytes() == second["weights"][name].numpy().tobytes(), name


def by_hand(root: Path, size: int, kills: int) -> None:
    """Count kills over whole runs, of full and adapter training, until there are so many; stops at the first difference."""
    rng = random.Random(0)
    total = {"step": 0, "save": 0, "": 0}
    runs = 0
    kinds = ["ddp"] if size == 1 else ["ddp", "fsdp"]
    cases = [
        Case(root / f"{kind}-{adapter}-{background}", kind, adapter, dropout=0.1, in_background=background)
        for adapter in (False, True)
        for background in (False, True)
        for kind in kinds
    ]
    for case in cases:
        finish(case, size)
    while total["step"] + total["save"] < kills:
        whole = cases[runs % len(cases)]
        cut = replace(whole, folder=root / f"cut-{runs}")
        for name, count in killed_again_and_again(cut, size, rng, 9).items():
            total[name] += count
        same_end(whole, cut, size)
        runs += 1
        print(runs, cut.kind, cut.adapter, cut.in_background, total, flush=True)


if __name__ == "__main__":
    by_hand(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
