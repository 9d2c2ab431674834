"""The process of a reward of your own: `python -m exptilt.rewards.own_reward_worker '{"import": "my:reward"}'`.

One JSON line of answers in, one line of numbers or of an error out. The first line it writes says that it is ready.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from exptilt.preferences import Answer
from exptilt.settings.reward_settings import OwnReward
from exptilt.wording import in_one_line


def main(written: str) -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is told, and ends this process
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the reward prints is no reply
    try:
        reward = OwnReward.read(json.loads(written)).make()
        ready: dict[str, Any] = {"scale": str(getattr(reward, "scale", "its own"))}
    except (Exception, SystemExit) as error:
        ready = {"error": _said(error)}
    print(json.dumps(ready), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_reply(reward, json.loads(line))), file=replies, flush=True)


def _reply(reward: Any, request: Any) -> dict[str, Any]:
    try:
        given = reward([_answer(each) for each in request])
        return {"rewards": np.asarray(given, dtype=np.float64).tolist()}
    except (Exception, SystemExit) as error:  # of the user's code, whatever it is
        return {"error": _said(error)}


def _answer(written: Mapping[str, Any]) -> Answer:
    prompt, messages, ids = written["prompt"], written["messages"], written["ids"]
    return Answer(
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        text=written["text"],
        messages=None if messages is None else tuple(messages),
        ids=None if ids is None else np.array(ids, dtype=np.int32),
        columns=written["columns"],
    )


def _said(error: BaseException) -> str:
    """The error, and the line of code outside this package that raised it."""
    own = os.path.dirname(os.path.abspath(__file__))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {in_one_line(error)}{where}"


if __name__ == "__main__":
    main(*sys.argv[1:])
