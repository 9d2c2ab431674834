"""Promise 2 over processes: two gloo processes leave the gradient and the metrics of one, for every objective."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel

from exptilt.data.groups import Completion, Group
from exptilt.losses import DPO, NLL, XPO, AnyLoss, Mixture, Term
from exptilt.policies.scoring import score
from exptilt.policies.world import World
from exptilt.train.objective import Objective
from exptilt.train.step import accumulate

MEMBERS = [member for member in get_args(get_args(AnyLoss)[0]) if member not in (Mixture, XPO)]
"""XPO needs samples drawn while training; mixtures are tried with a term that couples the batch."""
LOSSES: dict[str, Any] = {member().name: member() for member in MEMBERS} | {
    "dpo with nll over tokens": Mixture(terms=(Term(loss=DPO()), Term(loss=NLL(normalization="token"), weight=0.3))),
}
NUM_COMPLETIONS = {"pair": 2, "completion": 1, "unpaired": 1, "list": 3}


def tiny(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    rest = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=23, n_positions=64, n_embd=8, n_layer=1, n_head=2, **rest)).double()


def rows(kind: str) -> list[Group]:
    rng = np.random.default_rng(3)
    num = NUM_COMPLETIONS[kind]

    def ids(most: int) -> Any:
        return rng.integers(3, 23, size=rng.integers(1, most)).astype(np.int32)

    def completion() -> Completion:
        drawn = ids(7)
        return Completion(drawn, np.ones(len(drawn), dtype=bool))

    return [
        Group(
            id=f"row {number}",
            prompt=ids(5),
            completions=tuple(completion() for _ in range(num)),
            margin=float(rng.uniform(0.5, 2)),
            scores=tuple(rng.uniform(0.1, 0.9, size=max(num, 2)).tolist()),
            ranks=tuple(int(rank) + 1 for rank in rng.permutation(num)),
            desirable=bool(number % 3),
            weight=1.0 + 0.25 * number,
        )
        for number in range(7)
    ]


def step(loss: Any, world: World) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient and the metrics of one step, in the share of this process."""
    policy, reference = tiny(0), tiny(1)
    objective = Objective(loss)
    batch = objective.prepare(rows(loss.kind))
    # Uneven shares in uneven micro-batches: 4 + 1 rows and 2 rows, or all at once.
    shares = [[batch]] if world.size == 1 else [[batch[2:6], batch[6:]], [batch[:2]]]
    live = reference if "divergence" in loss.byproducts else None

    def scored(groups: Any) -> Any:
        return score(policy, groups, byproducts=loss.byproducts, reference=live)

    def anchor(groups: Any) -> Any:
        with torch.no_grad():
            return score(reference, groups)

    sums = accumulate(policy, shares[world.rank], objective, scored, anchor if loss.needs_reference else None, world)
    gradient = torch.cat(
        [parameter.grad.reshape(-1) for parameter in policy.parameters() if parameter.grad is not None]
    )
    return gradient, sums.means()


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save({name: step(loss, World.joined()) for name, loss in LOSSES.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_leave_what_one_leaves(of_two, name):
    gradient, means = step(LOSSES[name], World.alone())
    for found in of_two:
        other, other_means = found[name]
        torch.testing.assert_close(other, gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
        assert other_means == pytest.approx(means, rel=1e-6, abs=1e-9)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
