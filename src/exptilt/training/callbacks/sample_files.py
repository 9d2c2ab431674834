"""Completions of fixed prompts while a run goes on: to read, and to see length and KL move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from exptilt.run_folder.file_names import samples_at
from exptilt.run_folder.samples_record import StepSample
from exptilt.sampling.draws import Draws, prompt_text
from exptilt.training.callbacks.callback import Progress
from exptilt.training.sums import Sums


@dataclass
class SampleFiles:
    """Writes `samples/step-000020.jsonl` for every evaluation, and passes on what was measured.

    The draws have one seed at every step, so what changes between two steps is the policy's doing.
    """

    write: Callable[[str, Sequence[StepSample]], None]
    """Writes lines to a file of the run, by its name; in processes that do not write it does nothing."""
    draw: Callable[[], Draws]
    """Draws from the policy as it is; all processes call it together."""
    tokenizer: Any

    def __call__(self, progress: Progress) -> Sums:
        """Draw, write, and give the sums `kl`, `sample_length` and `ended`."""
        draws = self.draw()
        self.write(samples_at(progress.step), step_samples(draws, self.tokenizer))
        return sums_of(draws)


def step_samples(draws: Draws, tokenizer: Any) -> list[StepSample]:
    """Completions as lines to read."""
    kl: list[float | None] = [None] * len(draws) if draws.kl is None else draws.kl.tolist()
    return [
        StepSample(
            prompt=prompt_text(tokenizer, draws.prompts[draws.prompt_index[at]]),
            completion=draws.texts[at],
            tokens=int(draws.length[at]),
            ended=bool(draws.ended[at]),
            **({} if kl[at] is None else {"kl": kl[at]}),
        )
        for at in range(len(draws))
    ]


def sums_of(draws: Draws) -> Sums:
    """`sample_length` (tokens), `ended` (1 where the end token came in time) and, where measured, `kl` (nats)."""
    columns = {"sample_length": draws.length.astype(float).tolist(), "ended": draws.ended.astype(float).tolist()}
    if draws.kl is not None:
        columns["kl"] = draws.kl.tolist()
    return Sums({name: (sum(values), len(values)) for name, values in columns.items()})
