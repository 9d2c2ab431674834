"""The account of a stage of preparing data: its noted problems. An account is a value, and accounts add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exptilt.data.problems import CATALOGUE, MAX_EXAMPLES, Severity
from exptilt.run_folder.data_record import Finding
from exptilt.settings.data_settings import DECISION_CHOICES


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of the settings about problems.

    Example:
        >>> from exptilt.settings.data_settings import DataConfig
        >>> decisions = Decisions(DataConfig(train="pairs.jsonl", on_tie="keep").decisions)
        >>> decisions.on("tie"), decisions.leave_out("tie"), decisions.leave_out("empty")
        ('keep', False, True)
    """

    by_setting: Mapping[str, str]
    """The value of every `on_...` of `DataConfig`."""

    def on(self, code: str) -> str:
        """The decision about a problem."""
        return self.by_setting[CATALOGUE[code].setting or ""]

    def leave_out(self, code: str) -> bool:
        """Tell whether rows with a problem are left out; `error` leaves them out too, so that all errors are found."""
        return self.on(code) in ("error", "drop")


@dataclass(frozen=True, slots=True)
class Noted:
    """One problem: how often it occurred, and the first rows that have it."""

    count: int
    examples: tuple[str, ...]
    """Row ids, at most `MAX_EXAMPLES`."""
    detail: str
    """The exact fault of the first row; if empty, the message of the catalogue applies."""

    def __add__(self, later: Noted) -> Noted:
        examples = (*self.examples, *later.examples)[:MAX_EXAMPLES]
        return Noted(self.count + later.count, examples, self.detail)


@dataclass(frozen=True, slots=True)
class Account:
    """Problems noted in some rows, and the number of rows left out for each reason. Accounts add up.

    Example:
        >>> first = Account.of("empty", "a.jsonl:3", left_out=True)
        >>> both = first + Account.of("prefix", "a.jsonl:5") + Account.of("empty", "a.jsonl:9", left_out=True)
        >>> both.noted["empty"].examples, both.left_out
        (('a.jsonl:3', 'a.jsonl:9'), {'empty': 2})
    """

    noted: Mapping[str, Noted] = field(default_factory=dict)
    """Problems by code."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of rows left out, by the code of the reason."""

    @classmethod
    def of(cls, code: str, row_id: str = "", detail: str = "", *, count: int = 1, left_out: bool = False) -> Account:
        """The account of one problem.

        Args:
            code: code of the problem in `problems.CATALOGUE`.
            row_id: id of the row; empty if the problem is not in a single row, or if the row is only counted.
            detail: the exact fault.
            count: number of occurrences.
            left_out: whether the row is left out.
        """
        noted = Noted(count, (row_id,) if row_id else (), detail)
        return cls({code: noted}, {code: count} if left_out else {})

    def __add__(self, later: Account) -> Account:
        if not later.noted and not later.left_out:
            return self
        noted = dict(self.noted)
        for code, entry in later.noted.items():
            noted[code] = noted[code] + entry if code in noted else entry
        left_out = dict(self.left_out)
        for code, count in later.left_out.items():
            left_out[code] = left_out.get(code, 0) + count
        return Account(noted, left_out)

    def names_next(self, code: str) -> bool:
        """Tell whether the next row of a problem will be named, and not only counted."""
        return code not in self.noted or len(self.noted[code].examples) < MAX_EXAMPLES

    def findings(self, decisions: Decisions) -> tuple[Finding, ...]:
        """All findings, in the order of the catalogue."""
        return tuple(_finding(code, self.noted[code], decisions) for code in CATALOGUE if code in self.noted)


NOTHING = Account()
"""The account of rows without problems."""


def _finding(code: str, noted: Noted, decisions: Decisions) -> Finding:
    problem = CATALOGUE[code]
    severity: Severity = problem.severity
    fix = problem.fix
    if problem.setting and decisions.on(code) == "error":
        severity = "error"
        fix = f"{problem.fix}, or set data.{problem.setting} to {_either(DECISION_CHOICES[problem.setting])}"
    elif problem.setting:
        severity, fix = "warning", f"handled: data.{problem.setting}={decisions.on(code)}"
    detail = noted.detail or problem.message
    message = f"{noted.examples[0]}: {detail}" if noted.examples else detail
    return Finding(code=code, severity=severity, count=noted.count, examples=noted.examples, message=message, fix=fix)


def _either(choices: tuple[str, ...]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
