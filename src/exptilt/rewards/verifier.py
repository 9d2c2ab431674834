"""Verifiable rewards: 1 where the final answer of a completion is right, 0 where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.answer_checks import BOUNDED, check_by_name
from exptilt.rewards.bounded_calls import BoundedCalls
from exptilt.settings.reward_settings import VerifierConfig
from exptilt.wording import did_you_mean, in_one_line


class Verifier:
    """Compares completions with the right answers of their rows; see `answer_checks` for what is compared.

    A completion is unscored where its row has no right answer or none that can be read, and where the check takes
    longer than `timeout` or fails. Mathematics, patterns and schemas are checked in worker processes.

    Example:
        >>> verifier = Verifier(VerifierConfig(check="gsm8k"))
        >>> verifier([Answer(prompt="6 * 3?", text="#### 18", columns={"answer": "18"})]).tolist()
        [1.0]
    """

    scale = "1 right, 0 wrong"

    def __init__(self, settings: VerifierConfig) -> None:
        self.settings = settings
        options: dict[str, Any] = {}
        if settings.check == "regex":
            options = {"pattern": settings.pattern}
        if settings.check == "json":
            options = {"schema": read_schema(Path(str(settings.schema)).expanduser())}
        if settings.check == "exact":
            options = {"ignore_case": settings.ignore_case}
        self._options = options
        self._check = check_by_name(settings.check, options)

    @property
    def name(self) -> str:
        """The check."""
        return self.settings.check

    @property
    def identity(self) -> str:
        """The check, its settings, and the version of the library that does it."""
        library = {"math": "math-verify", "json": "jsonschema"}.get(self.settings.check)
        by = f" by {library} {version(library)}" if library else ""
        options = json.dumps(self._options, sort_keys=True)
        return f"verifier {self.settings.check}{by} of {self.settings.column} {options} in {self.settings.timeout:g} s"

    @property
    def num_timeouts(self) -> int:
        """Completions so far whose check took too long."""
        return self._calls.num_timeouts if "_calls" in vars(self) else 0

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) 1 right, 0 wrong, NaN unscored.

        Raises:
            DataError: no answer has the column with the right answer.
        """
        right = [answer.columns.get(self.settings.column) for answer in answers]
        if self.settings.needs_answer and answers and all(value is None for value in right):
            raise DataError(_lacks_column(self.settings, answers[0]))
        known = [place for place, value in enumerate(right) if value is not None or not self.settings.needs_answer]
        requests = [(answers[place].text, "" if right[place] is None else str(right[place])) for place in known]
        verdicts = self._verdicts(requests)
        values = np.full(len(answers), np.nan)
        values[known] = [np.nan if verdict is None else float(verdict) for verdict in verdicts]
        return values

    def close(self) -> None:
        """End the worker processes."""
        if "_calls" in vars(self):
            self._calls.close()

    def _verdicts(self, requests: Sequence[tuple[str, str]]) -> Sequence[bool | None]:
        if self.settings.check in BOUNDED:
            replies: list[bool | None] = self._calls(requests)
            return replies
        return [self._check(*request) for request in requests]

    @cached_property
    def _calls(self) -> BoundedCalls:
        command = ["exptilt.rewards.check_worker", self.settings.check, json.dumps(self._options)]
        return BoundedCalls(command, timeout=self.settings.timeout, workers=self.settings.workers)


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON Schema from a file.

    Raises:
        ConfigError: there is no such file, or it holds no JSON Schema.
    """
    from jsonschema import SchemaError, validators

    try:
        schema = json.loads(path.read_text("utf-8"))
        validators.validator_for(schema).check_schema(schema)
    except (OSError, ValueError) as error:
        raise ConfigError(f"reward.schema: {path}: cannot be read: {in_one_line(error)}") from None
    except SchemaError as error:
        raise ConfigError(f"reward.schema: {path}: is no JSON Schema: {in_one_line(error.message)}") from None
    content: dict[str, Any] = schema
    return content


def _lacks_column(settings: VerifierConfig, first: Answer) -> str:
    known = sorted(first.columns)
    more = did_you_mean(settings.column, known) if known else ""
    return (
        f"reward {settings.check}: no row has the column {settings.column!r} with the right answer{more}; "
        "name it in reward.column"
    )
