"""Records as the text a model reads: the prompt, and prompt and completion together, with the spans that count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from exptilt.data.encode.applied_template import AppliedTemplate
from exptilt.data.encode.chat_templates import template_of
from exptilt.data.encode.conservation import lost_of_prompt, lost_of_turn
from exptilt.data.problems import RowError
from exptilt.data.records import Record, TemplateArgs, Text, align, as_turns
from exptilt.data.turn_order import check_turn_order
from exptilt.data.turns import Message, calls_of, content_of, is_trained
from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["auto", "chat", "messages", "plain"]
Span = tuple[int, int]
PLAIN_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}
"""Names at the begin of turns if there is no chat template."""


class TurnText(NamedTuple):
    """One turn of a completion, with its range in the whole text."""

    turn: Message
    span: Span


@dataclass(frozen=True, slots=True)
class Whole:
    """A prompt and one of its completions as one text."""

    text: str
    """Prompt and completion."""
    spans: tuple[Span, ...] | None
    """Character ranges of `text` that count; None: everything after the prompt."""
    ended: bool
    """Whether the text itself ends with an end token."""
    turns: tuple[TurnText, ...] = ()
    """The assistant's turns of the completion, where it has turns."""

    @property
    def end_counts(self) -> bool:
        """Tell whether an added end token counts; it does not behind a turn that is switched off."""
        return not self.turns or is_trained(self.turns[-1].turn)

    def counted(self, prompt: str) -> Iterator[str]:
        """The parts of the text that count."""
        for first, last in self.spans if self.spans is not None else ((len(prompt), len(self.text)),):
            yield self.text[first:last]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A record as text."""

    prompt: str
    wholes: tuple[Whole, ...]
    by_template: bool
    """Made by a chat template, which sets BOS and the end of turns itself."""
    lost: tuple[str, ...] = ()
    """Content of the record that the text lacks, in words."""


class Renderer:
    r"""Turns prompts and completions into text.

    Text stays as it is. Messages go through the tokenizer's chat template; where it has none (base models), or with
    `template="plain"`, each turn becomes `\n\nHuman: ...`, `\n\nAssistant: ...`, `\n\nSystem: ...` or
    `\n\nTool: ...`, as in HH-RLHF, and the prompt ends in `\n\nAssistant:`, so that the space before the reply
    belongs to the reply.

    Args:
        tokenizer: with the chat template, if it has one.
        template: records that go through the chat template; `messages` is an explicit `auto`.
        template_args: for the chat template of every row; a row's own go before them.
        fold_system: put a system turn into the first user's, where the template has no system turn.
        to_end: keep what the template writes after the end of the last turn (ChatML's line break). A policy stops before
            it; a reward model reads it, and its score stands there.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template = "auto",
        template_args: TemplateArgs | None = None,
        *,
        fold_system: bool = False,
        to_end: bool = False,
    ) -> None:
        self._to_end = to_end
        self.template_text = template_of(tokenizer)
        if template == "chat" and self.template_text is None:
            raise DataError("data.template=chat, but the tokenizer has no chat template; set data.chat_template")
        self._tokenizer = tokenizer
        self._template = AppliedTemplate(tokenizer, template_args or {}, fold_system=fold_system)
        self._chat_messages = self.template_text is not None and template != "plain"
        self._chat_text = template == "chat"
        specials = getattr(tokenizer, "all_special_tokens", [])
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.special_tokens = sorted({*specials, *(token.content for token in added.values() if token.special)})
        self._ends = tuple(self.special_tokens)

    def render(self, record: Record) -> Rendered:
        """Render a record.

        Raises:
            RowError: where the chat template refuses the turns, or renders the prompt otherwise when its reply follows.
        """
        prompt, completions = align(record.prompt, record.completions)
        if isinstance(prompt, str) and not self._chat_text:
            start = self.prompt(prompt, record.template_args)
            return Rendered(
                start, tuple(self._text_whole(start, str(reply)) for reply in completions), by_template=False
            )
        turns = as_turns(prompt, "user")
        replies = [as_turns(completion, "assistant") for completion in completions]
        check_turn_order(turns, replies)
        start = self.prompt(turns, record.template_args)
        if not self._chat_messages:
            wholes = tuple(self._plain_whole(start, reply) for reply in replies)
        else:
            wholes = tuple(self._chat_whole(turns, start, reply, record.template_args) for reply in replies)
        lost = list(lost_of_prompt(turns, record.template_args.get("tools"), start, self.special_tokens))
        for reply, whole in zip(replies, wholes, strict=True):
            lost += self._lost(start, reply, whole)
        return Rendered(start, wholes, by_template=self._chat_messages, lost=tuple(lost))

    def prompt(self, prompt: Text, args: TemplateArgs | None = None) -> str:
        """The text that the model sees before it writes; `args` are the row's own arguments for the chat template."""
        is_text = isinstance(prompt, str) and not self._chat_text
        if self._chat_messages and not is_text:
            return self._template.render(as_turns(prompt, "user"), True, args or {})
        if args and args.get("tools"):
            way = "data.template=chat puts text through it" if self.template_text else "name one in data.chat_template"
            raise RowError("template_refused", f"tools need a chat template, and none is used for this row; {way}")
        return prompt if isinstance(prompt, str) else _transcript(prompt) + "\n\nAssistant:"

    def uses_template(self, prompt: Text) -> bool:
        """Tell whether a prompt goes through the chat template."""
        return self._chat_text or (self._chat_messages and not isinstance(prompt, str))

    def _text_whole(self, prompt: str, completion: str) -> Whole:
        return Whole(prompt + completion, None, self._is_ended(completion))

    def _is_ended(self, text: str) -> bool:
        end = self._tokenizer.eos_token
        return bool(end) and text.endswith(str(end))

    def _plain_whole(self, start: str, reply: tuple[Message, ...]) -> Whole:
        text, turn_texts = start, []
        for position, turn in enumerate(reply):
            written = _transcript((turn,))
            head = len(f"\n\n{PLAIN_NAMES[turn['role']]}:")
            if position == 0:
                written = written[head:]
                head = 0
            if turn["role"] == "assistant":
                turn_texts.append(TurnText(turn, (len(text) + head, len(text) + len(written))))
            text += written
        return _whole(text, turn_texts, reply, self._is_ended(text))

    def _chat_whole(
        self, turns: tuple[Message, ...], start: str, reply: tuple[Message, ...], args: TemplateArgs
    ) -> Whole:
        text = self._template.render((*turns, *reply), False, args)
        turn_texts: list[TurnText] = []
        ended = False
        for position, turn in enumerate(reply):
            if turn["role"] != "assistant":
                continue
            is_last = position == len(reply) - 1
            before = start if position == 0 else self._template.render((*turns, *reply[:position]), True, args)
            after = text if is_last else self._template.render((*turns, *reply[: position + 1]), False, args)
            for part in (before, after):
                if not text.startswith(part) or len(after) < len(before):
                    raise RowError("template_not_prefix", f"{_not_prefix(part, text)}; {self._template.advice()}")
            spoken = after[len(before) :]
            stripped = spoken.rstrip()
            ended = stripped.endswith(self._ends)
            turn_texts.append(TurnText(turn, (len(before), len(before) + len(stripped if ended else spoken))))
        end = None if self._to_end else turn_texts[-1].span[1]
        return _whole(text[:end], turn_texts, reply, ended)

    def _lost(self, start: str, reply: tuple[Message, ...], whole: Whole) -> Iterator[str]:
        spans = iter(turn_text.span for turn_text in whole.turns)
        for turn in reply:
            first, last = next(spans) if turn["role"] == "assistant" else (len(start), len(whole.text))
            yield from lost_of_turn(turn, whole.text[first:last], self.special_tokens)


def _whole(text: str, turn_texts: list[TurnText], reply: tuple[Message, ...], ended: bool) -> Whole:
    trained = tuple(turn_text.span for turn_text in turn_texts if is_trained(turn_text.turn))
    everything = len(reply) == 1 and len(trained) == 1
    return Whole(text, None if everything else trained, ended, tuple(turn_texts))


def _transcript(turns: tuple[Message, ...]) -> str:
    if any(calls_of(turn) for turn in turns):
        raise RowError("template_refused", "tool calls need a chat template, and none is used for this row")
    named_contents = ((PLAIN_NAMES[turn["role"]], content_of(turn)) for turn in turns)
    return "".join(f"\n\n{name}:{' ' if content else ''}{content}" for name, content in named_contents)


def _not_prefix(part: str, whole: str) -> str:
    same = next(
        (at for at, (expected, other) in enumerate(zip(part, whole, strict=False)) if expected != other), len(whole)
    )
    return (
        "the chat template renders a turn otherwise when more follows: "
        f"{part[same : same + 30]!r} alone, {whole[same : same + 30]!r} then"
    )
