"""One chat template applied to turns: its demands on them, its system turn, and its errors in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from exptilt.data.encode.chat_templates import kin_of, template_of
from exptilt.data.problems import RowError
from exptilt.data.records import TemplateArgs
from exptilt.data.turns import Message, calls_of, content_of, for_template, tools_of
from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST = 120
"""Characters of another library's message, and of a list of roles, that are shown."""
_PROBE = "A system text to look for."


class AppliedTemplate:
    """The chat template of a tokenizer, with the settings of a run.

    Args:
        tokenizer: with the template.
        args: for every row; a row's own go before them.
        fold_system: put the system turn's text before the first user's, where the template has no system turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, args: TemplateArgs, *, fold_system: bool) -> None:
        self.text = template_of(tokenizer) or ""
        self._tokenizer = tokenizer
        self._args = args
        self._fold = fold_system

    def render(self, turns: tuple[Message, ...], reply_next: bool, args: TemplateArgs) -> str:
        """Render turns as text; with `reply_next`, up to the begin of the assistant's next turn.

        Raises:
            RowError: where the template refuses the turns, whatever it raises.
            DataError: where the template itself is not valid.
        """
        settings = {**self._args, **args}
        if settings.get("tools") is not None:
            settings["tools"] = tools_of(settings["tools"])
        if self._fold and turns and turns[0]["role"] == "system" and not self.has_system:
            turns = folded(turns)
        text = self._apply(turns, reply_next, settings, arguments_as_text=False)
        calls = [call for turn in turns for call in calls_of(turn)]
        if calls and not _is_right(text, calls):
            # The template is written for arguments as JSON text, as OpenAI's interface gives them.
            again = self._apply(turns, reply_next, settings, arguments_as_text=True)
            text = again if _is_right(again, calls) else text
        if isinstance(text, str):
            return text
        roles = _short(", ".join(turn["role"] for turn in turns) or "no turn at all")
        fold = ""
        if turns and turns[0]["role"] == "system" and not self.has_system:
            fold = "; data.fold_system=true puts the system turn's text into the first user's turn"
        raise RowError("template_refused", f"the chat template refuses the turns ({roles}): {_reason(text)}{fold}")

    @cached_property
    def has_system(self) -> bool:
        """Tell whether the template writes a system turn."""
        turns = ({"role": "system", "content": _PROBE}, {"role": "user", "content": "Hello."})
        text = self._apply(turns, True, self._args, arguments_as_text=False)
        return isinstance(text, str) and _PROBE in text

    def advice(self) -> str:
        """The remedy for a template that renders a turn differently once others follow."""
        name = kin_of(self.text)
        if name is None:
            return "name a template that renders a turn the same whatever follows, in data.chat_template"
        return f"data.chat_template={name} writes the same marks and renders a turn the same whatever follows"

    def _apply(
        self, turns: tuple[Message, ...], reply_next: bool, settings: Mapping[str, Any], *, arguments_as_text: bool
    ) -> str | Exception:
        import jinja2

        tools = settings.get("tools") or ()
        conversation = [for_template(turn, tools, arguments_as_text=arguments_as_text) for turn in turns]
        options = {**settings, "tokenize": False, "add_generation_prompt": reply_next, "chat_template": self.text}
        try:
            return str(self._tokenizer.apply_chat_template(conversation, **options))
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"the chat template is not valid in line {error.lineno}: {_reason(error)}") from None
        except Exception as error:  # a template is a program, and can fail in every way that programs do
            return error


def folded(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    r"""Move the text of the system turn in front of the first user's turn, with an empty line between.

    Example:
        >>> folded(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}))
        ({'role': 'user', 'content': 'Be brief.\n\nHi'},)
    """
    system, *rest = turns
    at = next((at for at, turn in enumerate(rest) if turn["role"] == "user"), None)
    if at is None:
        return turns
    merged = f"{content_of(system)}\n\n{content_of(rest[at])}"
    return (*rest[:at], {**rest[at], "content": merged}, *rest[at + 1 :])


def _is_right(text: str | Exception, calls: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether turns were rendered, without arguments in Python's notation, which no model was taught."""
    printed = [repr(dict(call["arguments"])) for call in calls if isinstance(call["arguments"], Mapping)]
    return isinstance(text, str) and not any(notation in text for notation in printed if notation != "{}")


def _reason(error: Exception) -> str:
    message = " ".join(str(error).split())
    return _short(f"{type(error).__name__}: {message}" if not _is_worded(error) else message)


def _is_worded(error: Exception) -> bool:
    """Tell whether an error is a sentence of the template itself, which needs no class name."""
    import jinja2

    return isinstance(error, jinja2.TemplateError) and bool(str(error))


def _short(message: str) -> str:
    return message if len(message) <= _MOST else f"{message[:_MOST]}..."
