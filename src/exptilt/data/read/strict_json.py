"""JSON as rows are written in: no key twice in one object, and no number that Python alone would take."""

from __future__ import annotations

import json
from typing import Any

from exptilt.data.problems import RowError
from exptilt.wording import in_one_line


class RowDecoder:
    """Decodes JSON and notices a key that one object has twice, of which `json` would silently keep the last.

    Example:
        >>> decoder = RowDecoder()
        >>> decoder.row('{"a": [{"b": 1}]}')
        {'a': [{'b': 1}]}
        >>> decoder.row('{"a": [{"b": 1, "b": 2}]}')
        Traceback (most recent call last):
        exptilt.data.problems.RowError: invalid JSON: the key 'b' occurs twice in one object
    """

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._repeated: str | None = None

    def row(self, text: str) -> Any:
        """The value of a whole text.

        Raises:
            RowError: where it is no JSON.
        """
        self._repeated = None
        try:
            value = self._decoder.decode(text)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
            raise RowError("invalid_json", f"invalid JSON: {error.msg.removesuffix(' at')} at {where}") from None
        except RecursionError:
            raise RowError("invalid_json", "invalid JSON: nested too deeply") from None
        except ValueError as error:
            raise RowError("invalid_json", f"invalid JSON: {in_one_line(error)}") from None
        if self._repeated is not None:
            raise self._twice(self._repeated)
        return value

    def first(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a character, and where it ends; a `RowError` where a key occurs twice in it.

        Raises:
            ValueError: where it is no JSON.
        """
        self._repeated = None
        value, end = self._decoder.raw_decode(text, at)
        return (value if self._repeated is None else self._twice(self._repeated)), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            self._repeated = next(name for at, name in enumerate(names) if name in names[:at])
        return made

    @staticmethod
    def _twice(name: str) -> RowError:
        return RowError("invalid_json", f"invalid JSON: the key {name[:40]!r} occurs twice in one object")
