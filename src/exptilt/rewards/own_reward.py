"""A reward of your own, called in a process of its own: it can take too long, print, or end without harm to the command."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.bounded_calls import WorkerProcess
from exptilt.settings.declaration import as_dict
from exptilt.settings.reward_settings import OwnReward
from exptilt.wording import counted

_LOAD = 120.0
"""Seconds at least in which a reward may load its libraries and models."""


class ProcessReward:
    """Calls an `OwnReward` with all answers at once; the process is started by the first call and stays.

    What the reward prints goes to standard error. An error that it raises is told with the line that raised it.

    Example:
        >>> reward = ProcessReward(OwnReward.read({"import": "exptilt.rewards.length_reward:Length", "unit": "words"}))
        >>> reward([Answer(prompt="Well?", text="no one knows")]).tolist(), reward.scale
        ([3.0], 'words')
        >>> reward.close()
    """

    def __init__(self, part: OwnReward) -> None:
        part.require_unchanged("reward")
        self.part = part
        self._process: WorkerProcess | None = None

    @property
    def name(self) -> str:
        """The name behind the colon of the import path."""
        return self.part.title

    @property
    def identity(self) -> str:
        """Import path, settings, and the digest of the source."""
        settings = json.dumps({name: as_dict(value) for name, value in self.part.settings}, sort_keys=True, default=str)
        return f"{self.part.path} {settings} {self.part.source}"

    @property
    def scale(self) -> str:
        """What the reward says its numbers mean."""
        return str(self._started().ready["scale"])

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) numbers; NaN is unscored.

        Raises:
            DataError: it raised, took too long, ended, or gave no numbers.
        """
        in_time, reply = self._started().ask([_written(answer) for answer in answers], self.part.timeout)
        if not in_time:
            self._process = None
            raise DataError(
                f"reward {self.name}: gave no numbers for {counted(len(answers), 'answer')} within {self.part.timeout:g} s, or "
                "its process ended; set reward.timeout to more seconds, or mend it"
            )
        if "error" in reply:
            raise DataError(f"reward {self.name}: {reply['error']}")
        return np.asarray(reply["rewards"], dtype=np.float64)

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _started(self) -> WorkerProcess:
        if self._process is None:
            command = ["exptilt.rewards.own_reward_worker", json.dumps(self.part.written())]
            process = WorkerProcess(command, start=max(_LOAD, self.part.timeout), is_heard=True)
            if "error" in process.ready:
                process.end()
                raise ConfigError(f"reward {self.name}: {process.ready['error']}")
            weakref.finalize(self, process.end)
            self._process = process
        return self._process


def _written(answer: Answer) -> Mapping[str, Any]:
    return {
        "prompt": answer.prompt if isinstance(answer.prompt, str) else [dict(turn) for turn in answer.prompt],
        "text": answer.text,
        "messages": None if answer.messages is None else [dict(turn) for turn in answer.messages],
        "ids": None if answer.ids is None else answer.ids.tolist(),
        "columns": dict(answer.columns),
    }
