"""Promise 2 over processes: two gloo processes leave the gradient and the metrics of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.losses import AOT, BCO, DPO, KTO, NLL, SFT, BetaDPO, Term
from exptilt.losses import Mixture as Mix
from exptilt.policies.scoring import score
from exptilt.train.objective import Objective
from exptilt.train.step import accumulate
from exptilt.train.world import World

LOSSES = {
    "dpo": DPO(beta=0.5),
    "sft over tokens": SFT(normalization="token"),
    "aot sorts the batch": AOT(),
    "bco keeps a running mean": BCO(),
    "kto has a reference point of the batch": KTO(),
    "beta-dpo has statistics of the batch": BetaDPO(),
    "dpo with nll over tokens": Mix(terms=(Term(loss=DPO()), Term(loss=NLL(normalization="token"), weight=0.3))),
}


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=23, max_position_embeddings=64, **shape)).double()


def groups(kind: str) -> list[Group]:
    rng = np.random.default_rng(3)

    def completion() -> Completion:
        ids = rng.integers(3, 23, size=rng.integers(1, 7)).astype(np.int32)
        return Completion(ids, np.ones(len(ids), dtype=bool))

    num = 2 if kind == "pair" else 1
    return [
        Group(
            id=f"row {number}",
            prompt=rng.integers(3, 23, size=rng.integers(1, 5)).astype(np.int32),
            completions=tuple(completion() for _ in range(num)),
            desirable=bool(number % 3),
            weight=1.0 + 0.25 * number,
        )
        for number in range(7)
    ]


def step(name: str, world: World) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient and the metrics of one step, in the share of this process."""
    policy, reference = tiny(0), tiny(1)
    objective = Objective(LOSSES[name])
    batch = objective.prepare(groups(objective.loss.kind))
    # Uneven shares in uneven micro-batches: 4 + 1 rows and 2 rows, or all at once.
    shares = [[batch]] if world.size == 1 else [[batch[2:6], batch[6:]], [batch[:2]]]

    def anchor(rows):
        with torch.no_grad():
            return score(reference, rows)

    sums = accumulate(policy, shares[world.rank], objective, lambda rows: score(policy, rows), anchor, world)
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in policy.parameters()])
    return gradient, sums.means()


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save({name: step(name, World.joined()) for name in LOSSES}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_leave_what_one_leaves(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in LOSSES:
        gradient, means = step(name, World.alone())
        for rank in range(2):
            other, other_means = found[rank][name]
            assert torch.allclose(other, gradient, rtol=1e-6, atol=1e-12), name
            assert other_means == pytest.approx(means, rel=1e-6, abs=1e-9), name


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
