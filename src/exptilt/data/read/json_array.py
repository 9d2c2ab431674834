"""Items of a JSON array, one by one, so that a large file need not fit into memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.strict_json import RowDecoder

_BLOCK = 1 << 18
_EDGE = 16
"""Characters at the end of the text that may be the first part of a word, a number or an escape."""
_SPACE = re.compile(r"[ \t\n\r]*")


class _Text:
    """A window of decoded text, which reads ahead on demand and drops the text that was used."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._num_bytes = 0
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0
        self.ended = False
        self._line, self._column = 1, 1
        """Position of the first character of `text`."""

    def more(self, least: int) -> None:
        """Read at least `least` more bytes, and drop the text before `at`."""
        self._line, self._column = self.place(self.at)
        size, parts = 0, [self.text[self.at :]]
        self.at = 0
        while size < least and not self.ended:
            block = next(self._blocks, None)
            self.ended = block is None
            size += len(block or b"")
            parts.append(self._decoded(block or b""))
        self.text = "".join(parts)

    def _decoded(self, block: bytes) -> str:
        before = self._num_bytes - len(self._decode.getstate()[0])
        self._num_bytes += len(block)
        try:
            return self._decode.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            place = before + error.start + 1
            raise RowError("invalid_utf8", f"not valid UTF-8 at byte {place} of the text") from None

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a character, from 1."""
        lines = self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at) if lines else self._column + at
        return self._line + lines, column

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more(_BLOCK)

    def wrong(self, what: str, at: int | None = None) -> RowError:
        """An error with its line and column."""
        line, column = self.place(self.at if at is None else at)
        return RowError("invalid_json", f"invalid JSON: {what} at line {line} column {column}")


def array_items(blocks: Iterable[bytes]) -> Iterator[Any]:
    """Items of an array; one with a key that occurs twice comes as a `RowError`.

    Raises:
        RowError: at the first fault, after all items before it have been given.

    Example:
        >>> list(array_items([b'[1, {"a": ', b'"b"}]']))
        [1, {'a': 'b'}]
    """
    text = _Text(blocks)
    if text.peek() != "[":
        raise text.wrong("Expecting an array")
    text.at += 1
    if text.peek() == "]":
        text.at += 1
    else:
        yield from _items(text)
    if text.peek():
        raise text.wrong("Extra data")


def _items(text: _Text) -> Iterator[Any]:
    decoder = RowDecoder()
    while True:
        text.peek()
        yield _item(text, decoder)
        mark = text.peek()
        if mark not in (",", "]"):
            raise text.wrong("Expecting ',' delimiter")
        text.at += 1
        if mark == "]":
            return


def _item(text: _Text, decoder: RowDecoder) -> Any:
    block = _BLOCK
    while True:
        try:
            item, end = decoder.first(text.text, text.at)
        except json.JSONDecodeError as error:
            if text.ended or not _is_cut(error, len(text.text)):
                raise text.wrong(error.msg.removesuffix(" at"), error.pos) from None
        except RecursionError:
            raise text.wrong("nested too deeply") from None
        except ValueError as error:
            raise text.wrong(str(error).split(";")[0]) from None
        else:
            if text.ended or not isinstance(item, int | float) or end + _EDGE < len(text.text):
                text.at = end
                return item
        text.more(block)
        block *= 2


def _is_cut(error: json.JSONDecodeError, length: int) -> bool:
    """Whether the error may come from the end of the window."""
    return error.msg.startswith("Unterminated string") or length - error.pos < _EDGE
