"""The context of a row, read alike in every format: system prompt, history, weight, tools, media, order of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exptilt.data.formats.dialogues import same_turns
from exptilt.data.formats.fields import exchange, items, number, refuse_media, text, turns, under
from exptilt.data.formats.structured_text import structure_in
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Preference, Prompt, Ranking, Record, TemplateArgs, Text, align, as_turns
from exptilt.data.turn_order import check_turn_order

Row = Mapping[str, Any]
_SYSTEM = ("system", "system_prompt", "system_message")
CONTEXT = frozenset({*_SYSTEM, "history", "weight", "tools", "chat_template_kwargs"})
"""The columns read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContext:
    """The context around the prompt and the completions of a row."""

    system: str | None
    history: tuple[Message, ...]
    weight: float
    template_args: TemplateArgs

    @classmethod
    def of(cls, row: Row, read: frozenset[str] = frozenset()) -> RowContext:
        """Read the context of a row, except for columns that its format reads itself."""
        weight = number(row, "weight", 0.0)
        return cls(
            system=_system(row),
            history=() if "history" in read else _history(row.get("history")),
            weight=1.0 if weight is None else weight,
            template_args=_template_args(row),
        )

    @property
    def key(self) -> str:
        """A key that separates rows with equal prompts and different contexts."""
        return repr((self.system, self.history)) if self.system or self.history else ""

    def around(self, record: Record) -> Record:
        """Put the context around a record.

        Raises:
            RowError: where the context contradicts the record, or the turns are in an order no chat has.
        """
        prompt, completions = align(self._before(record.prompt), record.completions)
        check_turn_order(prompt, completions)
        return replace(
            _with_texts(record, prompt, completions),
            weight=self.weight,
            template_args={**record.template_args, **self.template_args},
        )

    def _before(self, prompt: Text) -> Text:
        if self.system is None and not self.history:
            return prompt
        turns_ = as_turns(prompt, "user")
        system_turn = turns_[:1] if turns_ and turns_[0]["role"] == "system" else ()
        turns_ = turns_[len(system_turn) :]
        if system_turn and self.system is not None and system_turn[0]["content"].strip() != self.system.strip():
            raise RowError("bad_value", "the system column and the first turn are two different system turns")
        if self.system is not None and not system_turn:
            system_turn = ({"role": "system", "content": self.system},)
        if same_turns(turns_[: len(self.history)], self.history):
            return (*system_turn, *turns_)
        return (*system_turn, *self.history, *turns_)


def in_context(
    records: Record | tuple[Record, ...], rows: Sequence[Row], read: frozenset[str] = frozenset()
) -> tuple[Record, ...]:
    """Put records that a format made of a row into the context of the row.

    Args:
        records: one or several records from the format.
        rows: the row, or all rows where several were gathered.
        read: columns that the format reads itself.
    """
    for row in rows:
        refuse_media(row)
    context, *others = (RowContext.of(row, read) for row in rows)
    if any(other != context for other in others):
        raise RowError("bad_value", "rows that belong together differ in system, history, tools or weight")
    return tuple(context.around(record) for record in (records if isinstance(records, tuple) else (records,)))


def _system(row: Row) -> str | None:
    columns = {column: row[column] for column in _SYSTEM if row.get(column) is not None}
    filled = {text(value, column) for column, value in columns.items() if not isinstance(value, str) or value.strip()}
    if len(filled) > 1:
        raise RowError(
            "bad_value", f"columns {' and '.join(columns)} say different things; leave one out in data.ignore_columns"
        )
    return next(iter(filled), None)


def _history(value: Any) -> tuple[Message, ...]:
    """Turns, or pairs of a question and its answer (LLaMA-Factory, ms-swift)."""
    if isinstance(value, str):
        said, value = value, structure_in(value) if value.strip() else []
        if value is None:
            raise RowError("wrong_type", f"history must be turns or pairs of question and answer, got {said[:40]!r}")
    if value is None or (isinstance(value, Sequence) and not value):
        return ()
    each = items(value, "history")
    if isinstance(each[0], Mapping):
        return turns(each, "history")
    return tuple(turn for at, pair in enumerate(each) for turn in exchange(pair, f"history[{at}]"))


def _template_args(row: Row) -> dict[str, Any]:
    """The row's arguments for the chat template: the columns `tools` and `chat_template_kwargs`, as values or as JSON."""
    args: dict[str, Any] = {}
    kwargs = _decoded(row.get("chat_template_kwargs"), "chat_template_kwargs")
    if kwargs is not None:
        args |= {name: value for name, value in under(kwargs, "chat_template_kwargs").items() if value is not None}
    tools = _decoded(row.get("tools"), "tools")
    if tools:
        args["tools"] = [
            tool if isinstance(tool, str) else dict(under(tool, f"tools[{at}]"))
            for at, tool in enumerate(items(tools, "tools"))
        ]
    return args


def _decoded(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    decoded = structure_in(value)
    if decoded is None:
        raise RowError("wrong_type", f"column {column!r} must hold JSON, got {value[:40]!r}")
    return decoded


def _with_texts(record: Record, prompt: Text, completions: tuple[Text, ...]) -> Record:
    if isinstance(record, Preference):
        return replace(record, prompt=prompt, chosen=completions[0], rejected=completions[1])
    if isinstance(record, Ranking):
        return replace(record, prompt=prompt, completions=completions)
    if isinstance(record, Prompt):
        return replace(record, prompt=prompt)
    return replace(record, prompt=prompt, completion=completions[0])
