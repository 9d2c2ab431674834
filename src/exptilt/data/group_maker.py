"""Checked examples as tokenised groups: a function of some examples, so that several processes can share the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from exptilt.data.account.statistics import Tally
from exptilt.data.checks.record_checks import has_tools_without_template, template_mark
from exptilt.data.encode.fewer_turns import fewer_turns, has_turns
from exptilt.data.encode.fit import fit
from exptilt.data.encode.rendered_rows import RenderedRows, is_identical_only_rendered
from exptilt.data.encode.tokens import Encoded, Encoder
from exptilt.data.groups import Group
from exptilt.data.records import Preference, Ranking, Record
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.data.table import batch_of

_TOOLS_ARE_LOST = "tools need a chat template, and none is used for this row; data.template=chat puts text through it"


class MadeGroups(NamedTuple):
    """The groups made of some examples, with their statistics."""

    batch: Any
    """The groups as an Arrow batch (`table.batch_of`); None where there are none."""
    rendered: RenderedRows
    """Digests of the groups."""
    tally: Tally
    """Statistics of the examples that stayed."""
    account: Account


@dataclass(frozen=True, kw_only=True)
class GroupMaker:
    """Makes groups of examples; without an encoder it only counts them."""

    encoder: Encoder | None
    decisions: Decisions
    template: str
    """The setting `data.template`."""
    max_tokens: int | None
    """Longest prompt and one completion together; None: no limit."""
    own_marks: str = ""
    """The tokenizer's special tokens and its chat template, which no text should hold by chance."""

    def make(self, examples: Sequence[Record]) -> MadeGroups:
        """Tokenise examples and make each fit."""
        account = self._marks(examples)
        if self.encoder is None:
            tally, lost = self._counted(examples)
            return MadeGroups(None, RenderedRows(), tally, account + lost)
        encoded, noted = self.encoder.encode(examples)
        account += noted
        groups, rendered, tally = list[Group](), RenderedRows(), Tally()
        for example, tokens in zip(examples, encoded, strict=True):
            if tokens is None:
                continue
            fitted, noted = self._fit(example, tokens, self.encoder)
            account += noted
            if fitted is not None:
                group = _group(example, fitted)
                groups.append(group)
                rendered.add(example, group)
                tally.add(example)
        return MadeGroups(batch_of(groups) if groups else None, rendered, tally, account)

    def _marks(self, examples: Sequence[Record]) -> Account:
        account = NOTHING
        for example in examples:
            mark = template_mark(example, self.own_marks)
            if mark is not None:
                detail = f"the text holds {mark!r}, the mark of a chat template"
                account += Account.of("template_in_text", example.id, detail)
        return account

    def _counted(self, examples: Sequence[Record]) -> tuple[Tally, Account]:
        tally, account = Tally(), NOTHING
        for example in examples:
            if has_tools_without_template(example, self.template):
                account += Account.of("template_refused", example.id, _TOOLS_ARE_LOST, left_out=True)
            else:
                tally.add(example)
        return tally, account

    def _fit(self, example: Record, tokens: Encoded, encoder: Encoder) -> tuple[Encoded | None, Account]:
        account = NOTHING
        if is_identical_only_rendered(example, tokens):
            left_out = self.decisions.leave_out("identical")
            detail = "identical once it is rendered: the chat template leaves out what differs"
            account = Account.of("identical", example.id, detail, left_out=left_out)
            if left_out:
                return None, account
        fewer = partial(fewer_turns, encoder, example) if has_turns(encoder, example) else None
        fitted, noted = fit(tokens, example.id, self.max_tokens, self.decisions, fewer)
        return fitted, account + noted


def _group(example: Record, encoded: Encoded) -> Group:
    completions = encoded.completions
    if example.scores is not None:
        scored = zip(completions, example.scores, strict=True)
        completions = tuple(replace(completion, score=score) for completion, score in scored)
    return Group(
        id=example.id,
        prompt=encoded.prompt,
        completions=completions,
        label=example.label,
        weight=example.weight,
        section=example.section if isinstance(example, Preference | Ranking) else None,
    )
