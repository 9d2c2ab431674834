"""Progress of a run: a bar with ETA on a terminal or in a notebook, a line on stderr every few steps elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from exptilt.progress import is_watched, progress_bar
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.sums import Sums

_SHOWN = {
    "rollout/reward": "reward",
    "rollout/kl": "KL",
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
}


@dataclass
class ShowProgress(Callback):
    """Shows a bar on a terminal or in a notebook, elsewhere a line every `every` steps (0: none). Quick runs show no bar."""

    every: int
    bar: Any = None
    began: float = field(default_factory=time.monotonic)
    first: int = 0
    window: Sums = field(default_factory=Sums)

    def on_start(self, progress: Progress) -> None:
        """Start the clock when this process starts."""
        self.began, self.first = time.monotonic(), progress.step
        if progress.step and self.every:
            print(f"goes on from the checkpoint of step {progress.step}", file=sys.stderr, flush=True)
        if is_watched():
            self.bar = progress_bar(progress.num_steps, doing="train", unit="step", begin=progress.step, leave=False)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Advance the bar, or print a line if it is due."""
        self.window.merge(sums)
        if self.bar is not None:
            self.bar.set_postfix_str(_brief(sums), refresh=False)
            self.bar.update(1)
            if progress.is_last:
                self.bar.close()
        elif self.every and (progress.step % self.every == 0 or progress.is_last):
            pace = (time.monotonic() - self.began) / (progress.step - self.first)
            left = pace * (progress.num_steps - progress.step)
            where = f"step {progress.step}/{progress.num_steps}"
            print(f"{where}  {_brief(self.window)}  {left:.0f} s left", file=sys.stderr, flush=True)
            self.window = Sums()


def _brief(sums: Sums) -> str:
    means = sums.means()
    return "  ".join(f"{short} {means[name]:.4g}" for name, short in _SHOWN.items() if name in means)
