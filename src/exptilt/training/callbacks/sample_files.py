"""Sample files of a run: completions of fixed prompts to read, with their length and KL."""

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
    """Writes `samples/step-000020.jsonl` at every evaluation, and passes its measurements on.

    Every step draws with the same seed, so that all changes between two steps come from the policy.
    """

    write: Callable[[str, Sequence[StepSample]], None]
    """Writes lines to a file of the run, by its name; in processes that do not write it does nothing."""
    draw: Callable[[], Draws]
    """Draws from the policy as it is; all processes call it together."""
    tokenizer: Any

    def __call__(self, progress: Progress) -> Sums:
        """Draw and write samples, and return the sums `kl`, `sample_length` and `ended`."""
        draws = self.draw()
        self.write(samples_at(progress.step), step_samples(draws, self.tokenizer))
        return sums_of(draws)


def step_samples(draws: Draws, tokenizer: Any) -> list[StepSample]:
    """Convert completions to lines for reading."""
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
    """Sums of `sample_length` (tokens), `ended` (1 if the end token came in time) and, if measured, `kl` (nats)."""
    columns = {"sample_length": draws.length.astype(float).tolist(), "ended": draws.ended.astype(float).tolist()}
    if draws.kl is not None:
        columns["kl"] = draws.kl.tolist()
    return Sums({name: (sum(values), len(values)) for name, values in columns.items()})
