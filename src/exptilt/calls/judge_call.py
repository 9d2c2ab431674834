"""`xt.judge`: win rates of answers, by judges."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exptilt.calls.public_call import public_call
from exptilt.calls.run_result import RunResult
from exptilt.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas

    from exptilt.preferences import Judge

_OF_A_JUDGE = ("name", "identity", "__call__")


@public_call
def judge(
    answers: Any,
    against: Any = None,
    *,
    by: Any = (),
    store: str | Path = "votes.db",
    template: str = "better",
    budget: float | None = None,
    confirmed: bool = False,
    common: bool = False,
    seed: int = 0,
    output: str | Path | None = None,
    html: str | Path | None = None,
    quiet: bool = False,
) -> pandas.DataFrame:
    """Ask judges which answers are better, in both orders, and tabulate win rates with intervals.

    Args:
        answers: what policies said: a mapping of names to rows with `prompt` and `completion` (as `xt.sample` returns them),
            to files or to runs; or a list of files and runs; or one of them.
        against: the opponent: rows, a file or a run; "reference" or "chosen", columns of each policy's own file; None
            compares all pairs.
        by: judges: "server:MODEL", "local:FOLDER", "reward:FILE.yaml", "votes", or objects of a judge or a reward
            (`exptilt.preferences`). The yardsticks longest and coin are always added.
        store: where verdicts are kept, so that none is asked for twice: a file or a postgresql:// URL.
        template: what a language model is asked: see `exptilt judge --help`.
        budget: most money that servers may be paid, in the unit of their prices.
        confirmed: whether prompts and answers may be sent to servers outside this machine.
        common: compare on the prompts that both sides have.
        seed: of the coin and of sampled verdicts.
        output: a JSON file for all numbers.
        html: a page with figures.
        quiet: print nothing.

    Returns:
        A row for each judge and match: `judge`, `match`, `win_rate` of the first (mean over both orders) with `low` and
        `high` (95 %), `length_controlled`, `ties` (shares in [0, 1]), `verdicts` and `unscored` (counts).

    Raises:
        ExptiltError: answers or judges cannot be used, or a server would be asked that is not confirmed.

    Example:
        >>> import tempfile, exptilt as xt
        >>> long = [{"prompt": f"{n}?", "completion": "yes, certainly"} for n in range(8)]
        >>> short = [{"prompt": f"{n}?", "completion": "no"} for n in range(8)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = xt.judge({"long": long, "short": short}, store=f"{folder}/votes.db", quiet=True)
        >>> float(table.set_index("judge").win_rate["longest"])
        1.0
    """
    from exptilt.judges.named_judges import JudgeOptions
    from exptilt.servers.endpoint import Endpoint
    from exptilt.verbs.judge import Asking
    from exptilt.verbs.judge import judge as run

    asking = Asking(
        judges=_judges(by),
        store=store,
        options=JudgeOptions(template=template, budget=budget, seed=seed, endpoint=Endpoint()),
        confirm=lambda _question: confirmed,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        policies = [_place(name, part, Path(folder)) for name, part in _named(answers)]
        opponent = against if against in (None, "reference", "chosen") else _opponent(against, Path(folder))
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        found = run(policies, opponent, asking, common=common, output=_path(output), html=_path(html))
    return _table(found)


def _judges(by: Any) -> list[str | Judge]:
    """Specs and judges; a reward judges by its numbers."""
    from exptilt.judges.reward_judge import RewardJudge

    each = [by] if isinstance(by, str) or not isinstance(by, Sequence) else list(by)
    for one in each:
        if not isinstance(one, str) and not all(hasattr(one, name) for name in _OF_A_JUDGE):
            raise ConfigError(
                f"xt.judge: by: {one!r:.60} is no judge; give a name such as 'server:MODEL', or an object of a judge or a reward"
            )
    return [RewardJudge(one) if not isinstance(one, str) and hasattr(one, "scale") else one for one in each]


def _named(answers: Any) -> list[tuple[str, Any]]:
    if isinstance(answers, Mapping):
        return [(str(name), part) for name, part in answers.items()]
    if isinstance(answers, str | PathLike | RunResult):
        return [("", answers)]
    if isinstance(answers, Sequence) and all(isinstance(part, str | PathLike | RunResult) for part in answers):
        return [("", part) for part in answers]
    if isinstance(answers, Sequence) and answers and isinstance(answers[0], Mapping):
        return [("answers", answers)]
    raise ConfigError("xt.judge: answers: give a mapping of names to rows, files or runs, such as {'mine': rows}")


def _opponent(against: Any, folder: Path) -> str:
    if isinstance(against, Mapping) and len(against) == 1:
        ((name, part),) = against.items()
        return _place(str(name), part, folder)
    return _place("opponent", against, folder)


def _place(name: str, part: Any, folder: Path) -> str:
    """Where answers are: a file or a run folder, or a file of that name written for them."""
    if isinstance(part, RunResult):
        return str(part.folder)
    if isinstance(part, str | PathLike):
        return fspath(part)
    if not isinstance(part, Sequence):
        raise DataError(f"xt.judge: {name}: a {type(part).__name__} is no rows of answers")
    path = folder / f"{name.replace('/', '-')}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for at, row in enumerate(part, start=1):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"xt.judge: {name}: row {at} is {row!r:.40} and no mapping with a prompt and a completion"
                )
            file.write(json.dumps({**row, "generator": name}) + "\n")
    return str(path)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _table(found: Mapping[str, Any]) -> pandas.DataFrame:
    import pandas

    rows = []
    for name, judged in found.items():
        for match, numbers in judged.matches.items():
            rate, controlled = numbers.rates.swap_average, numbers.length_controlled
            rows.append(
                {
                    "judge": name,
                    "match": match,
                    "win_rate": _value(rate),
                    "low": None if rate is None else rate.low,
                    "high": None if rate is None else rate.high,
                    "length_controlled": None if controlled is None else _value(controlled.win_rate),
                    "ties": _value(numbers.rates.ties),
                    "verdicts": numbers.rates.verdicts,
                    "unscored": numbers.rates.unscored,
                }
            )
    return pandas.DataFrame(rows)


def _value(estimate: Any) -> float | None:
    return None if estimate is None else estimate.value
