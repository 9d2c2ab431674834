"""Progress bars: a notebook's own where one runs, tqdm's on a terminal, none where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

_silent: ContextVar[bool] = ContextVar("exptilt_silent_bars", default=False)


def progress_bar(
    total: int, *, doing: str, unit: str, shown: bool = True, begin: int = 0, delay: float = 2, leave: bool = True
) -> Any:
    """A tqdm bar, which shows nothing before `delay` seconds.

    Args:
        total: number of units at the end.
        doing: what is done, in front of the bar.
        unit: what is counted.
        shown: whether anybody wants it.
        begin: units that are done already.
        delay: seconds.
        leave: whether it stays when it is full.
    """
    options: dict[str, Any] = {"desc": doing, "unit": unit, "initial": begin, "delay": delay, "leave": leave}
    hidden = not shown or _silent.get()
    if not in_notebook():
        from tqdm import tqdm

        return tqdm(total=total, disable=True if hidden else None, **options)  # None: only on a terminal
    if find_spec("ipywidgets") is None:  # tqdm would warn of it
        from tqdm import tqdm

        return tqdm(total=total, disable=hidden, file=sys.stdout, **options)
    from tqdm.notebook import tqdm as widget

    return widget(total=total, disable=hidden, **options)


def is_watched() -> bool:
    """Whether a bar would be seen: on a terminal or in a notebook, unless bars are silenced."""
    return (in_notebook() or sys.stderr.isatty()) and not _silent.get()


@contextmanager
def no_bars() -> Iterator[None]:
    """Show no bar while a block runs."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
