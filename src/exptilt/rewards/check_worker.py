"""The process that checks completions: `python -m exptilt.rewards.check_worker math '{}'`, one JSON line in, one out.

The first line it writes says that it is ready, so that the time in which libraries load counts for no completion.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from exptilt.rewards.answer_checks import check_by_name

_MOST_MEMORY = 4 << 30
"""Bytes of addresses; 10 ** 10 ** 10 asks for more."""
READY = "ready"


def main(name: str, settings: str) -> None:
    """Answer requests `[completion, right answer]` with true, false or null until there are no more."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    check = check_by_name(name, json.loads(settings))
    _bound_memory()
    print(json.dumps(READY), file=replies, flush=True)
    for line in sys.stdin:
        try:
            verdict = check(*json.loads(line))
        except (Exception, RecursionError, MemoryError):  # of any kind: this completion is unscored
            verdict = None
        print(json.dumps(verdict), file=replies, flush=True)


def _bound_memory() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


if __name__ == "__main__":
    main(*sys.argv[1:])
