"""`exptilt demo`: the DPO paper's controlled-sentiment experiment in small, with the same parts as any run.

a world of film reviews with a known reward -> SFT: the reference -> its samples, labelled by Bradley-Terry on the reward
-> Preferred-FT, DPO at three betas, IPO -> reward against sequence-level KL on held-out prompts, beside the optimum
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.errors import ConfigError
from exptilt.losses import DPO, IPO, SFT, AnyLoss
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.processes.surroundings import left_as_found
from exptilt.reports.page import write_report
from exptilt.reports.report_terminal import frontier_table
from exptilt.reports.tables.mask_table import mask_evaluation_of, mask_rounds_table, print_masks
from exptilt.run_folder.file_names import FRONTIER, REPORT_PAGE, SAMPLES, STUDY_RUNS
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.grid_settings import LabelConfig, WorldTask
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.bench import Yardstick
from exptilt.studies.labels_by_reward import Bench, finish
from exptilt.studies.study import FrontierStudy, PolicyPoint, ReferencePool
from exptilt.studies.tasks.blobs_task import BlobsSize, rounds_on_blobs
from exptilt.studies.tasks.reviews_task import prepare_world


@dataclass(frozen=True)
class DemoSize:
    """Sizes of all parts of the demo; the defaults fit in three minutes on two cores."""

    num_reviews: int = 8000
    """Reviews the reference learns from."""
    sft_epochs: float = 3.0
    samples_per_prompt: int = 48
    """Reference samples per training prompt; neighbours make the pairs."""
    epochs: float = 1.0
    """Passes over the preferences, for every method."""
    pool: int = 256
    """Reference samples per held-out prompt, for the optimum and best-of-n."""
    policy_samples: int = 16
    """Samples per held-out prompt of every trained policy."""
    num_prompts: int = 101
    """Held-out prompts."""
    width: int = 96
    num_layers: int = 3


LABEL_SCALE = 2.0
"""Sharpness of the Bradley-Terry labels: P(a preferred) = sigmoid(2 (r_a - r_b)), right four times in five."""

METHODS: dict[str, tuple[AnyLoss, str]] = {
    "preferred-ft": (SFT(), "Preferred-FT"),
    "dpo-beta-0.1": (DPO(beta=0.1), "DPO beta=0.1"),
    "dpo-beta-0.5": (DPO(beta=0.5), "DPO beta=0.5"),
    "dpo-beta-2": (DPO(beta=2.0), "DPO beta=2"),
    "ipo-beta-0.2": (IPO(beta=0.2), "IPO beta=0.2"),
}
"""Objective and title of every run, by folder."""


@left_as_found()
def demo(output: Path, seed: int, size: DemoSize | None = None, *, seeds: int = 1) -> dict[str, Any]:
    """Run the experiment, print its table, and write its report.

    Args:
        output: folder of runs and report; a second call on it goes on where the first was interrupted.
        seed: two runs with one seed give the same table, on one machine with one number of threads. Elsewhere
            rounding differs, and with it the samples: that is as another seed.
        size: sizes of all parts.
        seeds: how many seeds every objective is trained with, >= 1; several show the spread of seeds as well.

    Returns:
        The content of frontier.json.

    Raises:
        CheckpointError: the folder holds something else, or another process works in it.
        ConfigError: fewer than one seed.
    """
    if seeds < 1:
        raise ConfigError(f"seeds: must be >= 1, got {seeds}")
    with claimed(output, "demo", {}) as caution:
        demo = _Demo(output, seed, size or DemoSize(), seeds)
        if caution is not None:
            demo.console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        return demo.run()


@left_as_found()
def demo_of_masks(output: Path, seed: int, size: BlobsSize | None = None) -> MaskEvaluation:
    """Run rounds of preferences between masks on procedural blobs, beside rivals; print their tables.

    Args:
        output: folder of images, start and rounds; a second call on it goes on where the first was interrupted.
        seed: of everything that is drawn.
        size: sizes of all parts.

    Returns:
        What was measured of the last segmenter, the start and the rivals.

    Raises:
        CheckpointError: the folder holds something else, or another process works in it.
    """
    console, began = Console(), time.monotonic()
    with claimed(output, "demo", {}) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        console.print("draw blobs, and train a segmenter on masks that are two pixels too thick: the start")
        recipe = rounds_on_blobs(output, seed, size)
        console.print("rounds: candidates, a noisy annotator, DPO with an anchor; then the rivals")
        folder = run_rounds(recipe, Console(quiet=True)).folder
    console.print(mask_rounds_table(folder))
    print_masks(folder, console)
    console.print(f"report: {folder.path / REPORT_PAGE}   ({time.monotonic() - began:.0f} s)", highlight=False)
    measured = mask_evaluation_of(folder)
    return measured or MaskEvaluation()


@dataclass(frozen=True)
class _Run:
    """One objective trained with one seed."""

    folder: str
    title: str
    objective: str
    loss: AnyLoss
    seed: int


class _Demo:
    """The steps of the demo, in order; each leaves files that the next one reads."""

    def __init__(self, output: Path, seed: int, size: DemoSize, seeds: int = 1) -> None:
        self.output, self.seed, self.size, self.seeds = output, seed, size, seeds
        self.console = Console()
        self.began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Run all steps."""
        self._say(f"write {self.size.num_reviews} film reviews, train a small model on them: the reference")
        self._say("then it speaks, and its samples are paired and labelled by a noisy coin")
        bench = prepare_world(self._task(), self.output, self.seed, LAW, self.size.num_prompts)
        for run in self._runs():
            self._say(f"train {run.title}")
            finish(self._method(run, bench))
        self._say("sample every policy on held-out prompts; reward against KL, and the optimum")
        study = self._study(bench)
        frontier = study.content()
        folder = RunFolder(self.output)
        folder.write(FRONTIER, frontier)
        folder.write_lines(SAMPLES, study.side_by_side())
        page = write_report([self.output])
        self.console.print(frontier_table(frontier))
        self.console.print(f"report: {page}   ({time.monotonic() - self.began:.0f} s)", highlight=False)
        return frontier.as_dict()

    def _say(self, what: str) -> None:
        self.console.print(
            f"[dim]{time.monotonic() - self.began:4.0f} s[/dim]  {what}", highlight=False, soft_wrap=True
        )

    def _task(self) -> WorldTask:
        size = self.size
        return WorldTask(
            num_reviews=size.num_reviews,
            sft_epochs=size.sft_epochs,
            width=size.width,
            num_layers=size.num_layers,
            samples_per_prompt=size.samples_per_prompt,
            labels=LabelConfig(scale=LABEL_SCALE),
        )

    def _runs(self) -> list[_Run]:
        """Every objective with every seed; the first seed's folders bear no seed, so that seeds can be added later."""
        return [
            _Run(
                folder=name if at == 0 else f"{name}-seed-{self.seed + at}",
                title=title if self.seeds == 1 else f"{title} seed={self.seed + at}",
                objective=title,
                loss=loss,
                seed=self.seed + at,
            )
            for name, (loss, title) in METHODS.items()
            for at in range(self.seeds)
        ]

    def _method(self, run: _Run, bench: Bench) -> Recipe:
        return Recipe(
            output=str(self.output / STUDY_RUNS / run.folder),
            seed=run.seed,
            model=bench.reference,
            data=bench.data,
            loss=run.loss,
            batch=BatchConfig(size=64),
            optim=OptimConfig(learning_rate=5e-4),
            train=TrainConfig(epochs=self.size.epochs, log_every=5, eval_every=20, save_every=100_000),
            evaluate=EvaluateConfig(num_prompts=0),
        )

    def _study(self, bench: Bench) -> FrontierStudy:
        tokenizer = load_tokenizer(bench.reference)
        yardstick = Yardstick(
            reference=load_model(bench.reference, tokenizer),
            tokenizer=tokenizer,
            prompts=bench.prompts,
            reward=bench.reward,
            law=LAW,
            seed=self.seed + 10,
        )
        study = FrontierStudy(ReferencePool.draw(yardstick, self.size.pool), bench.reward_name)
        for stream, run in enumerate(self._runs(), start=1):
            folder = RunFolder(self.output / STUDY_RUNS / run.folder)
            model = load_model(ModelConfig(path=str(folder.model)), tokenizer)
            steps = folder.run.steps or 0
            point = PolicyPoint(
                name=run.title,
                method=run.loss.name,
                beta=getattr(run.loss, "beta", None),
                steps=steps,
                run=run.folder,
                seed=run.seed,
                objective=run.objective,
            )
            study.add(point, yardstick.measure(model, self.size.policy_samples, stream), yardstick.provenance)
        return study


LAW = SamplingLaw(max_new_tokens=48)
"""Temperature 1, no top-k, no top-p: the law under which the KL of full distributions is the KL of the samples."""
