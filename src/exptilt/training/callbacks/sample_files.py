"""Completions of fixed prompts while a run goes on: to read, and to see length and KL move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.data.groups import TokenIds
from exptilt.disk import refusals, write_lines
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.engine.inside import beside
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw, require_plain
from exptilt.training.callbacks.callback import Progress
from exptilt.training.sums import Sums

Rows = Sequence[Mapping[str, Any]]


@dataclass
class SampleFiles:
    """Writes `samples/step-000020.jsonl` for every evaluation, and passes on what was measured."""

    folder: Path
    """Of the run."""
    measure_samples: Callable[[int], tuple[Rows, Sums]]
    """Draws at a step; all processes call it together."""
    writes: bool = True
    """Whether this process writes the file."""

    def __call__(self, progress: Progress) -> Sums:
        """Draw, write, and give the sums `kl`, `sample_length` and `ended`."""
        rows, sums = self.measure_samples(progress.step)
        if self.writes:
            path = self.folder / "samples" / f"step-{progress.step:06}.jsonl"
            with refusals(path):
                path.parent.mkdir(exist_ok=True)
            write_lines(path, rows)
        return sums


def draw_samples(
    policy: Any, reference: Any | None, tokenizer: Any, prompts: Sequence[TokenIds], law: SamplingLaw, seed: int = 0
) -> tuple[list[dict[str, Any]], Sums]:
    """One completion for each prompt, as rows to read and as sums.

    A seed draws the same random numbers at every step, so what changes between two steps is the policy's doing.

    Args:
        policy: the model being trained; put into evaluation mode while it is sampled.
        reference: what KL is measured against: a model, or the policy with its adapter off; None measures no KL.
        tokenizer: of both.
        prompts: token ids, each short enough for the law's `max_new_tokens` to fit behind.
        law: the model's own distribution, of some length.
        seed: of the draws.

    Returns:
        Rows {prompt, completion, tokens, ended, kl}, and sums of `kl` (nats a completion, see
        `policies.divergence.sequence_kl`), `sample_length` (tokens) and `ended` (1 where the end token came in time).

    Raises:
        ValueError: a law other than the model's own.
    """
    require_plain(law, "the KL of samples")
    drawn = sample(policy, tokenizer, prompts, law=law, seed=seed)
    columns: dict[str, list[float]] = {
        "sample_length": [float(len(one.ids)) for one in drawn],
        "ended": [float(one.ended) for one in drawn],
    }
    if reference is not None:
        groups = samples_as_groups(drawn)
        columns["kl"] = beside(reference, lambda: sequence_kl(policy, reference, groups)).kl.tolist()
    sums = Sums({name: (sum(values), len(values)) for name, values in columns.items()})
    rows: list[dict[str, Any]] = [
        {
            "prompt": tokenizer.decode(one.prompt.tolist(), skip_special_tokens=True),
            "completion": one.text(tokenizer),
            "tokens": len(one.ids),
            "ended": one.ended,
        }
        for one in drawn
    ]
    for row, kl in zip(rows, columns.get("kl", []), strict=False):
        row["kl"] = kl
    return rows, sums
