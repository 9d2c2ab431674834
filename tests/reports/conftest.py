"""Run folders as `exptilt train`, `evaluate` and `demo` leave them, made of seeded curves."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeRun = Callable[..., Path]


def estimate(value: float, half: float, n: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value, "low": value - half, "high": value + half, "level": 0.95}
    return found if n is None else found | {"n": n}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def metrics(num_steps: int, beta: float, chosen: float, rejected: float, seed: int = 0) -> list[dict[str, float]]:
    """Curves of a run whose sides end `chosen` and `rejected` nats from the reference."""
    noise = random.Random(seed)
    rows: list[dict[str, float]] = []
    for step in range(0, num_steps + 1, 5):
        share = 1 - math.exp(-3 * step / num_steps)
        for split, spread in (("train", 1.0), ("eval", 0.1)):
            if split == "eval" and step % 50:
                continue
            if split == "train" and step == 0:
                continue
            up, down = (side * share + noise.gauss(0, 0.25 * spread) for side in (chosen, rejected))
            margin = beta * (up - down)
            rows.append(
                {"step": step, "epoch": step / num_steps}
                | {
                    f"{split}/{key}": value
                    for key, value in {
                        "loss": math.log1p(math.exp(-margin)) + noise.gauss(0, 0.01 * spread),
                        "rewards/chosen": beta * up,
                        "rewards/rejected": beta * down,
                        "rewards/margins": margin,
                        "rewards/accuracies": min(1.0, max(0.0, 0.5 + 0.24 * share + noise.gauss(0, 0.04 * spread))),
                        "logps/chosen": -61.0 + up,
                        "logps/rejected": -64.0 + down,
                        "displacement/chosen": up,
                        "displacement/rejected": down,
                        "lengths/chosen": 31.5,
                        "lengths/rejected": 29.75,
                    }.items()
                }
                | (
                    {
                        "train/grad_norm": 1 + abs(noise.gauss(0, 0.3)),
                        "train/lr": 1e-4 * (1 - step / num_steps),
                        "train/tokens_per_second": 9000 + noise.gauss(0, 300),
                    }
                    if split == "train"
                    else {}
                )
            )
    return rows


EVALUATION: dict[str, Any] = {
    "accuracy": {
        "with_reference": {
            "sum": estimate(0.684, 0.029, 1000),
            "mean": estimate(0.661, 0.029, 1000),
            "shared_length": estimate(0.652, 0.03, 1000),
        },
        "without_reference": {"sum": estimate(0.548, 0.031, 1000), "mean": estimate(0.571, 0.031, 1000)},
    },
    "longest_wins": estimate(0.556, 0.03, 1000),
    "auc": estimate(0.738, 0.03),
    "calibration": {
        "ece": 0.041,
        "bins": [
            {
                "predicted": 0.05 + 0.1 * k,
                "observed": min(1.0, max(0.0, 0.5 + 0.82 * (0.05 + 0.1 * k - 0.5))),
                "count": 30 + 40 * min(k, 9 - k),
            }
            for k in range(10)
        ],
    },
    "by_length_gap": [
        {"gap": [-60, -10], "accuracy": estimate(0.61, 0.05), "n": 301},
        {"gap": [-10, 10], "accuracy": estimate(0.69, 0.05), "n": 402},
        {"gap": [10, 60], "accuracy": estimate(0.74, 0.05), "n": 297},
    ],
    "kl": estimate(3.42, 0.21, 64),
    "lengths": {"chosen": 31.5, "rejected": 29.75, "reference": estimate(30.1, 1.2), "policy": estimate(36.8, 1.6)},
    "displacement": {"chosen": estimate(-4.2, 0.3), "rejected": estimate(-9.1, 0.4)},
    "margins": {
        "edges": [-2 + 0.2 * k for k in range(31)],
        "counts": [round(140 * math.exp(-((k - 12) ** 2) / 50)) for k in range(30)],
    },
}

SAMPLES = [
    {
        "prompt": f"The film opens in a small town, scene {k}. I thought",
        "reference": "it was long and slow, and the ending did not work at all.",
        "policy": "it was warm and sharp, and the ending stayed with me for days.",
        "reference_score": 0.21,
        "policy_score": 0.93,
    }
    for k in range(16)
]

DATA: dict[str, Any] = json.loads("""{"kind": "preferences",
 "train": {"source": "pairs.jsonl", "format": "preference", "rows": 2000, "kept": 1983,
  "rows_left_out": {"invalid_json": 2}, "examples_left_out": {"identical": 11, "too_long": 4}, "longer_chosen": 0.556,
  "lengths": {"prompt": {"least": 3, "median": 9.0, "p95": 20.0, "most": 41, "total": 19112}}},
 "test": {"source": "pairs_test.jsonl", "rows": 1000, "rows_left_out": {}, "kept": 1000},
 "findings": [
  {"code": "identical", "severity": "warning", "count": 11, "examples": ["pairs.jsonl:17", "pairs.jsonl:401"],
   "message": "pairs.jsonl:17: the completions of a row are identical", "fix": "handled: data.on_identical=drop"},
  {"code": "duplicate_prompt", "severity": "info", "count": 40, "examples": ["pairs.jsonl:9"],
   "message": "the prompt occurs in an earlier row as well", "fix": ""}]}""")


def config_text(loss: str, beta: float, seed: int = 0) -> str:
    return (
        f"output: runs/x\nseed: {seed}\nmodel:\n  path: sft-model\n  dtype: float32\ndata:\n  train: pairs.jsonl\n"
        f"loss:\n  name: {loss}\n  beta: {beta}\nbatch:\n  size: 32\n"
        "optim:\n  learning_rate: 0.0001\n  schedule: linear\ntrain:\n  epochs: 3\n"
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a whole run folder; `without` names files to leave out."""

    def make(
        name: str = "dpo",
        *,
        parent: Path | None = None,
        beta: float = 0.1,
        loss: str = "dpo",
        chosen: float = -4.2,
        rejected: float = -9.1,
        num_steps: int = 300,
        without: tuple[str, ...] = (),
        seed: int = 0,
        evaluation: dict[str, Any] | None = None,
    ) -> Path:
        folder = (parent or tmp_path) / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_text(loss, beta, seed), encoding="utf-8")
        write_json(
            folder / "run.json",
            {
                "exptilt": "0.1.0",
                "started": "2026-01-05T10:00:00+00:00",
                "finished": "2026-01-05T10:07:12+00:00",
                "status": "done",
                "steps": num_steps,
                "seed": seed,
                "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
                "model": {"name": "llama, 4 layers", "parameters": 812544},
                "reference": {"identity": "3f2a9c", "source": "the weights the run starts from"},
                "hardware": "Linux x86_64, 2 CPU cores",
                "seconds": 432.0,
                "warnings": [
                    {
                        "number": "W1",
                        "message": "3 rows have a prompt that is also in the test set",
                        "fix": "set data.on_leak=drop",
                    }
                ],
            },
        )
        write_json(folder / "data.json", DATA)
        write_lines(folder / "metrics.jsonl", metrics(num_steps, beta, chosen, rejected, seed))
        write_json(folder / "evaluation.json", EVALUATION if evaluation is None else evaluation)
        write_lines(folder / "samples.jsonl", SAMPLES)
        for file in without:
            (folder / file).unlink()
        return folder

    return make


@pytest.fixture
def frontier() -> dict[str, Any]:
    """A frontier of a reward in (0, 1) that starts at 0.5, five policies and best-of-N below it."""
    kl = [0.05 * k for k in range(61)]
    reward = [0.5 + 0.45 * math.sqrt(1 - math.exp(-1.2 * value)) for value in kl]

    def at(value: float, share: float) -> float:
        return 0.5 + share * 0.45 * math.sqrt(1 - math.exp(-1.2 * value))

    points = [
        ("DPO beta=0.05", "dpo", 2.31, 0.86, 0.05),
        ("DPO beta=0.1", "dpo", 1.24, 0.91, 0.1),
        ("DPO beta=0.5", "dpo", 0.31, 0.88, 0.5),
        ("IPO beta=0.1", "ipo", 0.86, 0.9, 0.1),
        ("Preferred-FT", "preferred_ft", 0.19, 0.71, None),
    ]
    return {
        "reward_name": "sentiment",
        "optimum": {
            "kl": kl,
            "reward": reward,
            "low": [value - 0.01 for value in reward],
            "high": [value + 0.01 for value in reward],
            "trusted": [value <= 1.45 for value in kl],
        },
        "log_m": math.log(64),
        "num_prompts": 128,
        "num_samples": 64,
        "reference_reward": estimate(0.5, 0.012, 128),
        "points": [
            {
                "name": name,
                "method": method,
                "kl": estimate(x, 0.05 + 0.04 * x),
                "reward": estimate(at(x, share), 0.014),
                "gain": estimate(at(x, share) - 0.5, 0.012),
                "fraction": estimate(share, 0.035),
                "length": 22.0 + 3 * x,
                "beta": beta,
                "steps": 300,
            }
            for name, method, x, share, beta in points
        ],
        "best_of_n": [
            {"n": n, "kl": math.log(n) - (n - 1) / n, "reward": at(math.log(n) - (n - 1) / n, 0.96)}
            for n in (2, 4, 8, 16)
        ],
    }


@pytest.fixture
def frontier_folder(tmp_path: Path, make_run: MakeRun, frontier: dict[str, Any]) -> Path:
    """A folder as `exptilt demo` leaves it."""
    folder = tmp_path / "demo"
    write_json(folder / "frontier.json", frontier)
    write_lines(folder / "samples.jsonl", SAMPLES)
    runs = (
        ("dpo-beta-0.05", "dpo", 0.05),
        ("dpo-beta-0.1", "dpo", 0.1),
        ("dpo-beta-0.5", "dpo", 0.5),
        ("ipo-beta-0.1", "ipo", 0.1),
    )
    for seed, (name, loss, beta) in enumerate(runs):
        sides = {"chosen": -4.2 / (1 + 4 * beta), "rejected": -9.1 / (1 + 4 * beta)}
        missing = ("evaluation.json", "samples.jsonl")
        make_run(name, parent=folder / "runs", loss=loss, beta=beta, seed=seed, without=missing, **sides)
    return folder
