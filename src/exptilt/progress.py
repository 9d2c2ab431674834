"""Progress on stderr: a bar with ETA on a terminal, a line now and then elsewhere, nothing for what is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 15.0


@contextmanager
def progress(description: str, total: int, unit: str = "step", start: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Yield `advance(count, note)`; what takes under two seconds shows nothing.

    Args:
        description: what is going on, in a word or two.
        total: how many units there are.
        unit: what is counted.
        start: how many were done before (a resumed run).
    """
    if sys.stderr.isatty():
        from tqdm.auto import tqdm

        with tqdm(desc=description, total=total, unit=unit, initial=start, delay=_QUIET_SECONDS, leave=False) as bar:

            def advance_bar(count: int, note: str = "") -> None:
                if note:
                    bar.set_postfix_str(note, refresh=False)
                bar.update(count)

            yield advance_bar
        return
    yield _lines(description, total, unit, start)


def _lines(description: str, total: int, unit: str, start: int) -> Callable[[int, str], None]:
    began = last = time.monotonic()
    done = start

    def advance(count: int, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last < _LINE_SECONDS:
            return
        last = now
        remaining = (now - began) / max(1, done - start) * (total - done)
        print(f"{description}: {done}/{total} {unit}s, about {remaining:.0f} s left {note}".rstrip(), file=sys.stderr)

    return advance
