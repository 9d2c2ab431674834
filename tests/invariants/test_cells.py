"""Promises 1, 2, 4 and 5 in every cell of {full, LoRA} x {one process, two} x {ddp, fsdp}.

All cells of a number of processes are run in one group of them, which a hang or a lost process would end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from worlds import Case, InfiniteSlope, run_of, together, whole_weights

from exptilt.data.batching import pack, shares
from exptilt.errors import NonFiniteError
from exptilt.losses import AOT, DPO
from exptilt.policies.policy import Policy
from exptilt.policies.reference.step_zero import check_step_zero
from exptilt.processes.world import World
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.callbacks.callback import Callback
from exptilt.training.checkpoints.run_state import trained_weights
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.run import Run

CELLS = [(kind, adapter) for kind in ("ddp", "fsdp") for adapter in (False, True)]
NUM_STEPS = 8
FAULTS = ("log-probability", "coupled log-probability", "slope", "weight")


def cells(world: World, folder: Path) -> dict[tuple[str, bool], dict[str, Any]]:
    """What each cell does, in one process of a group."""
    return {(kind, adapter): cell(world, folder / f"{kind}-{adapter}", kind, adapter) for kind, adapter in CELLS}


def cell(world: World, folder: Path, kind: str, adapter: bool) -> dict[str, Any]:
    for part in (folder / "whole", folder / "cut"):
        part.mkdir(parents=True, exist_ok=True)
    case = Case(folder / "whole", kind, adapter, num_steps=NUM_STEPS, save_every=3)
    run = run_of(case, world)
    own = [group for groups in run.batches.step(0) for group in groups]
    found = {"zero": check_step_zero(run.policy, run.reference, own, torch.float32)}
    found["whole"] = end_of(run)
    cut = replace(case, folder=folder / "cut")
    with pytest.raises(InterruptedError):
        train(with_callback(run_of(cut, world), Break(5)))
    again = run_of(cut, world)
    found["cut"] = end_of(again)
    found["faults"] = {fault: broken(again, fault) for fault in FAULTS}
    return found


def end_of(run: Run) -> dict[str, Any]:
    assert train(run).is_last
    return {"losses": run.callbacks[0].state()["losses"], "weights": whole_weights(run.model)}


@dataclass
class Break(Callback):
    """Ends the process's work at a step, as Ctrl-C twice does."""

    step: int

    def after_step(self, progress: Any, sums: Any) -> None:
        if progress.step == self.step:
            raise InterruptedError


def with_callback(run: Run, callback: Callback) -> Run:
    return replace(run, callbacks=[*run.callbacks, callback])


@dataclass(eq=False)
class Broken(Policy):
    """One row's rejected completion has an infinite log-probability, or an infinite slope."""

    row: str = ""
    slope: bool = False

    def __call__(self, groups: Any) -> Any:
        return self._spoiled(groups, super().__call__(groups))

    def backward(self, groups: Any, loss_of: Any) -> None:
        super().backward(groups, lambda some, logps: loss_of(some, self._spoiled(some, logps)))

    def _spoiled(self, groups: Any, logps: Any) -> Any:
        bad = torch.tensor([side and group.id == self.row for group in groups for side in (0, 1)], dtype=torch.bool)
        units = bad.repeat_interleave(logps.lengths)
        values = logps.tokens()
        return replace(
            logps, values=InfiniteSlope.apply(values, units) if self.slope else values.masked_fill(units, -torch.inf)
        )


def broken(run: Run, fault: str) -> dict[str, Any]:
    """Break a run that stands at some step, and see what the next step does: the last process has the row."""
    dealt: Any = run.batches
    row = shares(pack(dealt.batches.groups(0), dealt.tokens), run.world.size)[-1][0][0].id
    loss = AOT() if fault.startswith("coupled") else DPO()
    policy = Policy(run.model) if fault == "weight" else Broken(run.model, row=row, slope=fault == "slope")
    if fault == "weight":
        with torch.no_grad():
            for weights in run.optimizer.param_groups[0]["params"][:1]:
                local(weights).fill_(torch.nan)
    broken_run = replace(
        run, policy=policy, objective=Objective(loss), settings=TrainConfig(resume="never"), callbacks=[]
    )
    before = snapshot(run)
    with pytest.raises(NonFiniteError) as caught:
        train(broken_run)
    return {"row": row, "said": str(caught.value), "told": caught.value.told, "unmoved": before == snapshot(run)}


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def snapshot(run: Run) -> list[bytes]:
    """What this process holds, bit for bit."""
    state = [value for values in run.optimizer.state.values() for value in values.values()]
    tensors = [*trained_weights(run.model).values(), *state, torch.tensor(run.schedule.last_epoch)]
    return [local(tensor).detach().numpy().tobytes() for tensor in tensors]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    """By number of processes, what each of them has found."""
    made = {}
    for size in (1, 2):
        folder = tmp_path_factory.mktemp(f"of-{size}")
        made[size] = together(size, cells, folder, folder)
    return made


EVERY = pytest.mark.parametrize(
    ("size", "cell"),
    [(size, cell) for size in (1, 2) for cell in CELLS],
    ids=lambda value: f"{value[0]} {'lora' if value[1] else 'full'}" if isinstance(value, tuple) else str(value),
)


@EVERY
def test_step_zero_is_zero(found, size, cell):
    for one in found[size]:
        assert one[cell]["zero"] < 1e-5
        assert one[cell]["whole"]["losses"][0] == pytest.approx(math.log(2), abs=1e-5)


@EVERY
def test_the_steps_are_those_of_one_process(found, size, cell):
    expected = found[1][0]["ddp", cell[1]]["whole"]
    assert abs(expected["losses"][-1] - math.log(2)) > 5e-4
    for one in found[size]:
        whole = one[cell]["whole"]
        assert whole["losses"] == pytest.approx(expected["losses"], abs=1e-6)
        assert whole["weights"].keys() == expected["weights"].keys()
        for name, weights in expected["weights"].items():
            assert whole["weights"][name].numpy() == pytest.approx(weights.numpy(), abs=2e-6), name


@EVERY
def test_an_interrupted_run_is_the_same_run(found, size, cell):
    for one in found[size]:
        whole, cut = one[cell]["whole"], one[cell]["cut"]
        assert cut["losses"] == whole["losses"]
        for name, weights in whole["weights"].items():
            assert cut["weights"][name].numpy().tobytes() == weights.numpy().tobytes(), name


@EVERY
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_ends_all_processes_with_one_error_before_anything_moves(found, size, cell, fault):
    all_found = [one[cell]["faults"][fault] for one in found[size]]
    assert all(one["unmoved"] for one in all_found)
    assert len({one["said"] for one in all_found}) == 1
    assert [one["told"] for one in all_found] == [False, True][:size]
    said, row = all_found[0]["said"], all_found[0]["row"]
    assert "no weight was moved" in said
    if fault == "weight":
        assert "the log-probability of 8 rows is not finite" in said
    elif fault == "slope":
        assert (
            f"the gradient is not finite (nan); no weight was moved. Rows with a non-finite gradient of their own: {row}. "
            in said
        )
    else:
        assert f"the log-probability of 1 row is not finite, no weight was moved: {row}. Look" in said
