"""Training steps of exptilt and of TRL on the same rows and weights, taking turns in one run, against the matrix products alone.

pip install 'exptilt[peers]'          # TRL 1.16 and peft; an environment of its own keeps them out of yours
python benchmarks/against_trl.py [--workloads hh tldr] [--shape 7m-32k] [--precision float32 bfloat16] [--lora] [--rounds 5]
python benchmarks/against_trl.py --device cuda --shape 1.5b --groups 64 --peak-tflops 989

Arms, each a process of its own (see arms.py):
    floor     the matrix products of the step's unique tokens, in the step's shapes and dtype, and nothing else
    exptilt   one optimizer step as `exptilt train` takes it, reference cached
    trl       DPOTrainer as it comes: batch of 8, gradient checkpointing, reference scored in every step
    tuned     DPOTrainer with the reference cached, no checkpointing, and the micro-batch that is fastest here

Time is CPU seconds of the whole process, all threads (on a GPU: seconds between two synchronizations), so other work on
the machine counts little; the ratios of one round are of the same rows. Memory is the peak of a process above what it
was with its libraries imported, the model's weights included (on a GPU: the allocator's peak).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from workloads import SHAPES, WORKLOADS, Work, Workload, rows_of, write_setting

from exptilt.settings.data_settings import DEFAULT_TOKENS

HERE = Path(__file__).parent
MICRO_BATCHES = (1, 2, 4, 8)


@dataclass
class Arm:
    """A process that takes steps when told to."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    last: dict[str, Any] = field(default_factory=dict)

    def step(self) -> float:
        """One step; its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.last = self.answer()
        return float(self.last["seconds"])

    def answer(self) -> dict[str, Any]:
        """The next line; if there is none, the end of this program with the arm's last words."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            words = self.log.read_text().strip().splitlines()[-8:]
            raise SystemExit("\n".join([*words, f"{self.name} ended with status {self.process.wait()}"]))
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    workload: str
    shape: str
    precision: str
    rank: int
    options: argparse.Namespace
    folder: Path

    @property
    def work(self) -> Workload:
        """The workload, with as many groups in a step as was asked for."""
        work = WORKLOADS[self.workload]
        return replace(work, groups=self.options.groups) if self.options.groups else work

    def write(self) -> list[Work]:
        """Model and rows; what each step must compute."""
        size = self.work.groups
        groups = rows_of(self.work, SHAPES[self.shape].vocabulary, size * (self.options.rounds + 1))
        write_setting(self.folder, SHAPES[self.shape], groups, getattr(torch, self.options.weights))
        return [Work.of(groups[begin : begin + size]) for begin in range(0, len(groups), size)]

    def file_of(self, arm: str, **extra: Any) -> Path:
        """What an arm reads."""
        first = rows_of(self.work, SHAPES[self.shape].vocabulary, 1)[0]
        content = {
            "folder": str(self.folder),
            "workload": self.workload,
            "shape": self.shape,
            "vocabulary": SHAPES[self.shape].vocabulary,
            "groups": self.work.groups,
            "steps": self.options.rounds + 1,
            "precision": self.precision,
            "weights": self.options.weights,
            "rank": self.rank,
            "threads": self.options.threads,
            "device": self.options.device,
            "flash": self.options.flash,
            "budget": self.options.tokens,
            "compile": self.options.compile,
            "head_rows": 512 if self.options.device == "cpu" else 4096,
            "first_row": [first.prompt.tolist(), *(side.ids.tolist() for side in first.completions)],
            "tuned": False,
            "rebalance": False,
            "micro_batch": min(8, self.work.groups),
        }
        path = self.folder / f"{arm}.json"
        path.write_text(json.dumps(content | extra))
        return path

    @contextmanager
    def arm(self, name: str, **extra: Any) -> Iterator[Arm]:
        """A process for as long as it is needed; ready for its first step."""
        program = "trl" if name == "tuned" else name
        log = self.folder / f"{name}.log"
        with log.open("w") as words:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "arms.py"), program, str(self.file_of(name, **extra))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(self.options.threads), "TOKENIZERS_PARALLELISM": "false"},
            )
        arm = Arm(name, process, log)
        try:
            arm.answer()
            yield arm
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def best_micro_batch(setting: Setting) -> dict[str, Any]:
    """How TRL is fastest here: every way takes the same two steps, the second counts."""
    found: list[tuple[float, dict[str, Any]]] = []
    orders = (False, True) if setting.options.device == "cuda" else (False,)
    for size in (size for size in MICRO_BATCHES if setting.work.groups % size == 0):
        for rebalance in orders if size > 1 else (False,):
            way = {"tuned": True, "micro_batch": size, "rebalance": rebalance}
            with setting.arm("tuned", **way) as arm:
                arm.step()
                found.append((arm.step(), way))
    return min(found, key=lambda pair: pair[0])[1]


def measure(setting: Setting) -> dict[str, Any]:
    """All arms of one setting, in turns."""
    works = setting.write()
    options = setting.options
    names = [name for name in options.arms if setting.work.completions == 2 or name in ("floor", "exptilt")]
    ways: dict[str, dict[str, Any]] = {name: {} for name in names}
    if "tuned" in names and options.micro_batch:
        ways["tuned"] = {"tuned": True, "micro_batch": options.micro_batch}
    elif "tuned" in names:
        ways["tuned"] = best_micro_batch(setting)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    last: dict[str, dict[str, Any]] = {}
    if options.apart:  # models that do not fit beside each other
        for name in names:
            with setting.arm(name, **ways[name]) as arm:
                seconds[name] = [arm.step() for _ in works][1:]
                last[name] = arm.last
    else:
        with ExitStack() as stack:
            arms = [stack.enter_context(setting.arm(name, **ways[name])) for name in names]
            for number in range(len(works)):
                for arm in arms:
                    spent = arm.step()
                    if number:  # the first step warms up
                        seconds[arm.name].append(spent)
            last = {arm.name: arm.last for arm in arms}
    return {
        "workload": setting.workload,
        "shape": setting.shape,
        "precision": setting.precision,
        "rank": setting.rank,
        "groups": setting.work.groups,
        "tokens": [work.tokens for work in works[1:]],
        "padded": [work.padded for work in works[1:]],
        "flops": [work.flops(SHAPES[setting.shape], frozen=bool(setting.rank)) for work in works[1:]],
        "micro_batch": ways.get("tuned", {}).get("micro_batch"),
        "seconds": seconds,
        "last": last,
    }


def ratio(slow: list[float], fast: list[float]) -> str:
    """Of the totals, with the smallest and largest of a round."""
    each = [one / other for one, other in zip(slow, fast, strict=True)]
    return f"{sum(slow) / sum(fast):.1f} ({min(each):.1f}-{max(each):.1f})"


def show(found: dict[str, Any], peak_tflops: float | None) -> str:
    """One line of the table."""
    seconds, last = found["seconds"], found["last"]
    own = seconds.get("exptilt")
    name = f"{found['workload']} {found['shape']} {found['precision']} {'LoRA' if found['rank'] else 'full'}"
    cells = [f"{statistics.mean(found['tokens']):.0f} / {statistics.mean(found['padded']):.0f}"]
    for arm in ("trl", "tuned", "exptilt", "floor"):
        cells.append(f"{statistics.mean(seconds[arm]):.3g}" if arm in seconds else "")
    cells.append(f"{found['groups'] * len(own) / sum(own):.3g}" if own else "")
    cells += [ratio(seconds[arm], own) if own and arm in seconds else "" for arm in ("trl", "tuned")]
    cells.append(f"{100 * sum(seconds['floor']) / sum(own):.0f} %" if own and "floor" in seconds else "")
    cells.append(" / ".join(f"{last[arm]['peak_mb']:.0f}" for arm in ("trl", "tuned", "exptilt") if arm in last))
    if own and "trl" in last:
        cells.append(
            f"{last['exptilt']['peak_mb'] / last['trl']['peak_mb']:.2f} "
            f"({last['exptilt']['above_model_mb'] / last['trl']['above_model_mb']:.2f})"
        )
    else:
        cells.append("")
    rate = sum(found["flops"]) / sum(own) if own else 0.0
    cells.append(f"{rate / peak_tflops / 1e12:.1%}" if peak_tflops else f"{rate / 1e9:.0f} GFLOP/s")
    cells.append(" / ".join(f"{last[arm]['loss']:.5f}" for arm in ("trl", "exptilt") if arm in last))
    return f"| {name} | " + " | ".join(cells) + " |"


HEADER = (
    "| setting | tokens a step: unique / padded | TRL s | tuned s | exptilt s | floor s | groups/s | x TRL | x tuned | "
    "share of floor | peak MB: TRL / tuned / exptilt | memory of TRL's (above the model) | FLOP rate | last loss: TRL / exptilt |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["hh"])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["7m-32k"])
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lora", type=int, nargs="?", const=8, default=0, metavar="RANK")
    parser.add_argument("--arms", nargs="+", choices=("floor", "exptilt", "tuned", "trl"),
                        default=["floor", "exptilt", "tuned", "trl"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, help="groups in a step; default: the workload's, 8 pairs")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="exptilt's batch.tokens")
    parser.add_argument("--compile", action="store_true", help="exptilt's train.compile")
    parser.add_argument("--micro-batch", type=int, help="TRL's when tuned; default: the fastest is looked for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--flash", action="store_true", help="flash_attention_2 in TRL; needs flash-attn")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision: prints FLOP utilisation")
    parser.add_argument("--apart", action="store_true", help="one arm after the other: for models that fit only alone")
    parser.add_argument("--json", type=Path, help="append every measurement to this file")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds, {options.device}")
    print(HEADER + "\n|" + "---|" * 14, flush=True)
    for shape, precision, workload in itertools.product(options.shape, options.precision, options.workloads):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Setting(workload, shape, precision, options.lora, options, Path(folder)))
        print(show(found, options.peak_tflops), flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
