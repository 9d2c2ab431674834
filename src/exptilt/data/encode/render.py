"""Records as the text a model reads: the prompt, and prompt and completion together, with the spans that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from exptilt.data.problems import RowError
from exptilt.data.records import Message, Record, TemplateArgs, Text, align, as_turns
from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["auto", "chat", "plain"]
Span = tuple[int, int]
PLAIN_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}
"""What a turn begins with where there is no chat template."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A prompt and one of its completions as one text."""

    text: str
    """Prompt and completion."""
    spans: tuple[Span, ...] | None
    """Character ranges of `text` that count; None: everything after the prompt."""
    ended: bool
    """Whether the text itself ends with an end token."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A record as text."""

    prompt: str
    wholes: tuple[Whole, ...]
    by_template: bool
    """Made by a chat template, which sets BOS and the end of turns itself."""


class Renderer:
    r"""Turns prompts and completions into text.

    Text stays as it is. Messages go through the tokenizer's chat template; where it has none (base models), or with
    `template="plain"`, each turn becomes `\n\nHuman: ...`, `\n\nAssistant: ...`, `\n\nSystem: ...` or
    `\n\nTool: ...`, as in HH-RLHF, and the prompt ends in `\n\nAssistant:`, so that the space before the reply
    belongs to the reply.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template = "auto") -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if template == "chat" and not has_template:
            raise DataError("data.template=chat, but the tokenizer has no chat template; use auto or plain")
        self._tokenizer = tokenizer
        self._chat_messages = has_template and template != "plain"
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
            wholes = tuple(self._text_whole(prompt, str(completion)) for completion in completions)
            return Rendered(prompt, wholes, by_template=False)
        turns = as_turns(prompt, "user")
        replies = [as_turns(completion, "assistant") for completion in completions]
        for reply in replies:
            _check_order(turns, reply)
        by_template = self._chat_messages
        start = self.prompt(turns, record.template_args)
        if not by_template:
            wholes = tuple(self._plain_whole(start, reply) for reply in replies)
        else:
            wholes = tuple(self._chat_whole(turns, start, reply, record.template_args) for reply in replies)
        return Rendered(start, wholes, by_template=by_template)

    def prompt(self, prompt: Text, args: TemplateArgs | None = None) -> str:
        """The text the model sees before it writes; `args` are the row's own for the chat template."""
        if isinstance(prompt, str) and not self._chat_text:
            return prompt
        turns = as_turns(prompt, "user")
        if self._chat_messages:
            return self._chat(turns, True, args or {})
        if args and args.get("tools"):
            raise RowError("template_refused", "tools need a chat template, and none is used")
        return _transcript(turns) + "\n\nAssistant:"

    def uses_template(self, prompt: Text) -> bool:
        """Whether a prompt goes through the chat template."""
        return self._chat_text or (self._chat_messages and not isinstance(prompt, str))

    def _text_whole(self, prompt: str, completion: str) -> Whole:
        return Whole(prompt + completion, None, self._is_ended(completion))

    def _is_ended(self, text: str) -> bool:
        end = self._tokenizer.eos_token
        return bool(end) and text.endswith(str(end))

    def _plain_whole(self, start: str, reply: tuple[Message, ...]) -> Whole:
        text, spans = start, []
        for position, turn in enumerate(reply):
            written = _transcript((turn,))
            head = len(f"\n\n{PLAIN_NAMES[turn['role']]}:")
            if position == 0:
                written = written[head:]
                head = 0
            if turn["role"] == "assistant":
                spans.append((len(text) + head, len(text) + len(written)))
            text += written
        return Whole(text, None if len(reply) == 1 else tuple(spans), self._is_ended(text))

    def _chat_whole(
        self, turns: tuple[Message, ...], start: str, reply: tuple[Message, ...], args: TemplateArgs
    ) -> Whole:
        text = self._chat((*turns, *reply), False, args)
        spans: list[Span] = []
        ended = False
        for position, turn in enumerate(reply):
            if turn["role"] != "assistant":
                continue
            before = start if position == 0 else self._chat((*turns, *reply[:position]), True, args)
            after = text if position == len(reply) - 1 else self._chat((*turns, *reply[: position + 1]), False, args)
            if not (text.startswith(before) and text.startswith(after)) or len(after) < len(before):
                raise RowError("template_not_prefix", _not_prefix(before, text))
            said = after[len(before) :]
            stripped = said.rstrip()
            ended = stripped.endswith(self._ends)
            spans.append((len(before), len(before) + len(stripped if ended else said)))
        text = text[: spans[-1][1]]
        return Whole(text, None if len(reply) == 1 else tuple(spans), ended)

    def _chat(self, turns: tuple[Message, ...], reply_next: bool, args: TemplateArgs) -> str:
        import jinja2

        conversation: list[dict[str, Any]] = [dict(turn) for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(
                conversation, **{**args, "tokenize": False, "add_generation_prompt": reply_next}
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            roles = ", ".join(turn["role"] for turn in turns) or "no turn at all"
            reason = " ".join(str(error).split())
            raise RowError("template_refused", f"the chat template refuses the turns ({roles}): {reason}") from None
        return str(text)


def _transcript(turns: tuple[Message, ...]) -> str:
    for turn in turns:
        if turn.get("tool_calls"):
            raise RowError("template_refused", "tool calls need a chat template, and none is used")
    return "".join(
        f"\n\n{PLAIN_NAMES[turn['role']]}:{' ' if turn['content'] else ''}{turn['content']}" for turn in turns
    )


def _check_order(turns: tuple[Message, ...], reply: tuple[Message, ...]) -> None:
    if not reply or reply[0]["role"] != "assistant" or reply[-1]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in reply) or "no turn at all"
        raise RowError("bad_roles", f"a completion must begin and end with the assistant's turn, got {roles}")
    if any(turn["role"] == "system" for turn in (*turns[1:], *reply)):
        raise RowError("bad_roles", "a system turn can only be the first")


def _not_prefix(prompt: str, whole: str) -> str:
    same = next((at for at, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other), len(whole))
    return (
        "the chat template renders the prompt otherwise when its reply follows: "
        f"{prompt[same : same + 30]!r} alone, {whole[same : same + 30]!r} with the reply"
    )
