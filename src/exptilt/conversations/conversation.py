"""A conversation: its turns, and the row that is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

from exptilt.data.turns import Message
from exptilt.disk import append
from exptilt.errors import ConfigError


class Conversation:
    """Turns of a user and a model in turn, behind a system prompt if there is one.

    Example:
        >>> talk = Conversation("Be brief.")
        >>> talk.ask("2 + 2?"); talk.answer("4")
        >>> [turn["role"] for turn in talk.turns]
        ['system', 'user', 'assistant']
        >>> talk.take_back(), [turn["role"] for turn in talk.turns]
        ('4', ['system', 'user'])
    """

    def __init__(self, system: str = "") -> None:
        self._system = system
        self._spoken: list[Message] = []

    @property
    def turns(self) -> tuple[Message, ...]:
        """All turns, the system prompt first."""
        system: list[Message] = [{"role": "system", "content": self._system}] if self._system else []
        return (*system, *self._spoken)

    def __len__(self) -> int:
        """How many turns were spoken."""
        return len(self._spoken)

    def ask(self, text: str) -> None:
        """Add the user's turn."""
        self._spoken.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the model's turn."""
        self._spoken.append({"role": "assistant", "content": text})

    def take_back(self) -> str:
        """Remove the last turn, and give its text."""
        return str(self._spoken.pop()["content"])

    def begin_anew(self, system: str | None = None) -> None:
        """Forget the turns; with another system prompt where one is given."""
        self._spoken.clear()
        self._system = self._system if system is None else system

    def save(self, path: Path) -> None:
        """Append the conversation as a row `{"messages": [...]}` to a .jsonl file, which `exptilt train` reads.

        Raises:
            ConfigError: there is nothing to save, or the file is no .jsonl file.
            DiskError: the disk refuses.
        """
        if not self._spoken:
            raise ConfigError("nothing was said yet, so there is nothing to save")
        if path.suffix != ".jsonl":
            raise ConfigError(f"{path}: name a .jsonl file; a conversation is added to it as one line")
        append(path, json.dumps({"messages": [dict(turn) for turn in self.turns]}, ensure_ascii=False) + "\n")
