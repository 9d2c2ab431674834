"""Names of the files of a run folder and of a study's folder: each is spelled here and nowhere else."""

from __future__ import annotations

from pathlib import PurePath

CONFIG = "config.yaml"
"""The resolved recipe of a run."""
RUN = "run.json"
"""Versions, hardware, seed, status, warnings: `RunRecord`."""
DATA = "data.json"
"""What was read, kept and left out: `DataReport`."""
METRICS = "metrics.jsonl"
"""One line for each logged step: `MetricsLine`."""
EVALUATION = "evaluation.json"
"""Held-out measurements: `Evaluation`."""
MASK_EVALUATION = "mask_evaluation.json"
"""Held-out measurements of a segmenter: `MaskEvaluation`."""
SAMPLES = "samples.jsonl"
"""Policy and reference side by side: `SideBySide`."""
SAMPLED = "samples.jsonl"
"""Completions that `exptilt sample` drew: `SampleRow`."""
SAMPLING = "sampling.yaml"
"""By what and how they were drawn."""
FRONTIER = "frontier.json"
"""Policies on the reward-KL plane: `Frontier`."""
JUDGED = "judged.json"
"""Win rates by judges: `Judged`."""
JUDGED_GRID = "judged.yaml"
"""The resolved settings of a grid of win rates."""
REPORT_PAGE = "report.html"
REPORT = "report.json"
"""Every number of the page: `ReportRecord`."""

MODEL = "model"
"""Folder of the trained model, as `from_pretrained` loads it."""
BEST = "best"
"""Folder of the best weights so far."""
MERGED_BASE = "merged-base"
"""Folder of the base of a new adapter, where the adapter it starts from had to be merged."""
CRITIC = "critic"
"""Folder of the critic of a finished run, a model with one score."""
CHECKPOINTS = "checkpoints"
RIVALS = "rivals"
"""Folder of what learned from the same rows by other means, each a run of its own."""
PICTURES = "pictures"
"""Folder of pictures of held-out masks."""
STEP_SAMPLES = "samples"
"""Folder of the completions drawn while a run goes on: `StepSample`."""

ROLLOUT_WEIGHTS = "rollout-weights"
"""Folder of the adapter that a server draws a run's rollouts with; there while the run goes on."""

STUDY_CONFIG = "frontier.yaml"
"""The resolved recipe of a study."""
STUDY_RUNS = "runs"
"""Folder of a study's runs."""
STUDY_POINTS = "points"
"""Folder of a study's measured policies: `MeasuredSamples`."""
STUDY_POOL = "reference.json"
"""A study's samples of the reference: `ReferenceSamples`."""
STUDY_OPTIMUM = "optimum.json"
"""A study's best masks at each beta: `MaskOptimumSolved`."""
STUDY_FACTS = "bench.json"
STUDY_PROPOSALS = "proposals.npz"
STUDY_WEIGHTS = "weights"
"""Folder of the weights a study measures, in each of its runs."""


def margins_of(evaluation: str = EVALUATION) -> str:
    """The file with every pair's margins (`PairMargin`) that belongs to an evaluation.

    Example:
        >>> margins_of(), margins_of("evaluation-others.json")
        ('evaluation-margins.jsonl', 'evaluation-others-margins.jsonl')
    """
    return f"{PurePath(evaluation).stem}-margins.jsonl"


def samples_at(step: int) -> str:
    """The file with the completions drawn at one step.

    Example:
        >>> samples_at(20)
        'samples/step-000020.jsonl'
    """
    return f"{STEP_SAMPLES}/step-{step:06}.jsonl"
