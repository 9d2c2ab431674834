"""A conversation in a terminal: what is typed is asked, what begins with a slash is a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from exptilt.conversations.chat_request import ChatRequest
from exptilt.conversations.conversation import Conversation
from exptilt.conversations.model_process import Ending, ModelProcess
from exptilt.errors import ConfigError, ExptiltError
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import as_dict, config, dotted
from exptilt.settings.load import load

HELP = """/again            another answer to the last message
/reset            forget the conversation
/save FILE.jsonl  add the conversation to a file that `exptilt train` reads
/set law.KEY=VALUE, /set seed=N    how answers are drawn; /set alone shows it
/system TEXT      another system prompt, and a new conversation; alone: none
/help, /quit      Ctrl-C ends an answer, Ctrl-D the chat; a line that ends in \\ goes on"""


@config
class ChatDraw:
    """How answers are drawn, as it may be changed in the middle of a conversation."""

    law: SamplingLaw
    seed: int


@dataclass
class _State:
    talk: Conversation
    draw: ChatDraw
    index: int = 0
    """Number of the answer to the last message."""


class ChatTerminal:
    """Reads lines and writes answers until the lines end.

    Args:
        models: that answer.
        request: how the conversation begins.
        ask: gives the next line, as `input` does.
        interactive: whether somebody types; otherwise the first error ends it.
    """

    def __init__(
        self, models: ModelProcess, request: ChatRequest, ask: Callable[[str], str] = input, *, interactive: bool = True
    ) -> None:
        self._models, self._ask, self._interactive = models, ask, interactive
        self._state = _State(Conversation(request.system), ChatDraw(law=request.law, seed=request.seed))
        self._commands: dict[str, Callable[[str], None]] = {
            "again": self._again,
            "reset": self._reset,
            "save": self._save,
            "set": self._set,
            "system": self._system,
            "help": lambda _words: print(HELP),
        }

    def run(self) -> None:
        """Talk until `/quit` or the end of the lines.

        Raises:
            ExptiltError: the model or a command refuses, and nobody is typing.
        """
        while True:
            try:
                line = self._line()
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /quit ends the chat)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                self._take(line)
            except ExptiltError as error:
                if not self._interactive:
                    raise
                print(f"exptilt: {error}", file=sys.stderr, flush=True)

    def _line(self) -> str:
        line = self._ask("> " if self._interactive else "")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._ask("  " if self._interactive else "")
        return line

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self._state.talk.ask(line)
            self._state.index = 0
            self._answer()
            return
        name, _, words = line[1:].partition(" ")
        if name not in self._commands:
            raise ConfigError(f"/{name}: there is no such command; /help lists them")
        self._commands[name](words.strip())

    def _answer(self) -> None:
        """Stream an answer; a question that gets none is taken back, so that it can be asked again."""
        state, ending, said = self._state, Ending(), ""
        try:
            with closing(
                self._models.answer(
                    "policy",
                    state.talk.turns,
                    state.draw.law,
                    seed=state.draw.seed,
                    index=state.index,
                    ending=ending,
                )
            ) as pieces:
                for piece in pieces:
                    said += piece
                    print(harmless(piece), end="", flush=True)
        except KeyboardInterrupt:
            print(" (stopped)", end="")
        except ExptiltError:
            if said:
                print()
            state.talk.take_back()
            raise
        print(f" (cut after {state.draw.law.max_new_tokens} tokens)" if ending.was_cut else "", flush=True)
        state.talk.answer(said)

    def _again(self, _words: str) -> None:
        if not len(self._state.talk):
            raise ConfigError("/again: nothing was asked yet")
        self._state.talk.take_back()
        self._state.index += 1
        self._answer()

    def _reset(self, _words: str) -> None:
        self._state.talk.begin_anew()
        print("(a new conversation)")

    def _save(self, words: str) -> None:
        if not words:
            raise ConfigError("/save: name a .jsonl file")
        self._state.talk.save(Path(words).expanduser())
        print(f"(saved: {words})")

    def _set(self, words: str) -> None:
        if words:
            stated = [
                f"{key}={'null' if value is None else value}"
                for key, value in dotted(as_dict(self._state.draw)).items()
            ]
            draw = load(ChatDraw, None, [*stated, *words.split()])
            if draw.law.eos_ids != self._state.draw.law.eos_ids:
                raise ConfigError("law.eos_ids cannot be changed in a conversation; begin another with it")
            self._state.draw = draw
        shown = dotted(as_dict(self._state.draw))
        print(f"({' '.join(f'{key}={value}' for key, value in shown.items() if value is not None)})")

    def _system(self, words: str) -> None:
        self._state.talk.begin_anew(words)
        print("(a new conversation with that system prompt)" if words else "(a new conversation without system prompt)")


def harmless(text: str) -> str:
    """Text without characters that could steer a terminal; line ends and tabs stay.

    Example:
        >>> harmless(f"a{chr(27)}[2Jb")
        'a␛[2Jb'
    """
    return "".join(
        chr(0x2400 + ord(letter))
        if ord(letter) < 32 and letter not in "\n\t"
        else "\ufffd"
        if 127 <= ord(letter) < 160
        else letter
        for letter in text
    )


def line_editing() -> None:
    """Arrow keys and history of this chat's lines, where the platform has them."""
    with suppress(ImportError):
        import readline  # noqa: F401
