"""Rendered text as token ids: exactly what the model sees at inference, with BOS once and which tokens count."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from exptilt.data.encode.chat_templates import SCRATCH, reads
from exptilt.data.encode.render import Rendered, Renderer, Span, Template, Whole
from exptilt.data.groups import Completion, TokenIds
from exptilt.data.problems import RowError
from exptilt.data.records import Record, TemplateArgs, Text, words_of
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.data.turns import said_by
from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Boundary = Literal["split", "merge"]
_SWITCH = "TOKENIZERS_PARALLELISM"
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>|\[THINK\]\s*\[/THINK\]")
_SWITCHED_OFF = "off"
"""The value that the command line sets; people write `false` or `0`."""


class Encoded(NamedTuple):
    """A record as token ids, before any cut."""

    prompt: TokenIds
    completions: tuple[Completion, ...]
    num_leading: int
    """Number of BOS tokens at the begin of the prompt, which no cut removes."""


class _Piece(NamedTuple):
    """The ids of a completion, and the prompt tokens that it could not share."""

    ids: list[int]
    counted: list[bool]
    start: int
    """Number of the prompt's tokens before it."""


class Encoder:
    """Encodes records with one tokenizer.

    BOS is set if the tokenizer sets it (its post-processor), never twice, and never besides a chat template, which
    sets its own; a prompt that would be empty gets BOS in any case. EOS ends every completion of text; a chat template
    must end its turns itself. If the tokens of prompt and completion together do not begin with those of the prompt
    alone, `boundary` decides: `split` keeps the prompt's tokens, which is what the model sees when it is asked; `merge`
    keeps the tokens of the whole, and those that reach over the boundary belong to the completion. With `whole`, a
    row is read as reward models read it: in the tokens of the whole, up to what a chat template writes after the last turn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        decisions: Decisions,
        template: Template = "auto",
        boundary: Boundary = "split",
        template_args: TemplateArgs | None = None,
        fold_system: bool = False,
        whole: bool = False,
    ) -> None:
        self.renderer = Renderer(tokenizer, template, template_args, fold_system=fold_system, to_end=whole)
        self._asks_about_text = template == "auto" and self.renderer.template_text not in (None, SCRATCH)
        self._tokenizer = tokenizer
        self._decisions = decisions
        self._whole = whole
        self._boundary: Boundary = "merge" if whole else boundary
        self._bos = _leading_ids(tokenizer)
        self._eos: int | None = tokenizer.eos_token_id
        self._unknown = _unknown_id(tokenizer)
        specials = [re.escape(token) for token in self.renderer.special_tokens if token]
        self._special = re.compile("|".join(specials)) if specials else None

    def encode(self, records: Sequence[Record]) -> tuple[list[Encoded | None], Account]:
        """Encode records.

        Returns:
            The records as token ids, in order, None for one that is left out; and the account of them.
        """
        account = NOTHING
        rendered: list[Rendered | None] = []
        for record in records:
            item, noted = self._render(record)
            rendered.append(item)
            account += noted
        good = [item for item in rendered if item is not None]
        # Once each: the pairs of one ranking share their prompt and most of their texts.
        texts = list(
            dict.fromkeys(text for item in good for text in (item.prompt, *(whole.text for whole in item.wholes)))
        )
        with _threads():
            ids = dict(zip(texts, self._ids(texts), strict=True))
        encoded: list[Encoded | None] = []
        for record, item in zip(records, rendered, strict=True):
            if item is None:
                encoded.append(None)
                continue
            tokens, codes = self._encode(record, item, ids[item.prompt], [ids[whole.text] for whole in item.wholes])
            tokens, of_ids = self._as_drawn(record, tokens, self._with_bos(ids[item.prompt], item.by_template))
            encoded.append(tokens)
            for code in (*codes, *of_ids):
                account += Account.of(code, record.id)
        return encoded, account

    def prompts(self, prompts: Sequence[Text], args: Sequence[TemplateArgs] | None = None) -> list[TokenIds]:
        """Token ids to sample from; see `encode_prompts`."""
        args_of_prompts = args if args is not None else [{}] * len(prompts)
        ids = self._ids(
            [
                self.renderer.prompt(prompt, template_args)
                for prompt, template_args in zip(prompts, args_of_prompts, strict=True)
            ]
        )
        pairs = zip(prompts, ids, strict=True)
        return [_array(self._with_bos(part, self.renderer.uses_template(prompt))) for prompt, part in pairs]

    def _as_drawn(self, record: Record, encoded: Encoded, prompt: list[int]) -> tuple[Encoded, tuple[str, ...]]:
        """A record in the tokens it was sampled in, if the row has them and they read as its text; codes of findings."""
        drawn = record.drawn_ids
        if drawn is None:
            return encoded, ()
        texts = [words_of(text) for text in record.completions]
        is_known = max(map(max, (drawn.prompt, *drawn.completions))) < len(self._tokenizer)
        if not is_known or self._tokenizer.decode(list(drawn.prompt)) != self._tokenizer.decode(prompt):
            return encoded, ("foreign_ids",)
        if not all(map(self._reads_as, drawn.completions, texts)):
            return encoded, ("foreign_ids",)
        completions = tuple(
            Completion(_array(list(ids)), np.ones(len(ids), dtype=np.bool_)) for ids in drawn.completions
        )
        made = Encoded(_array(list(drawn.prompt)), completions, encoded.num_leading)
        own, sampled = ((one.prompt, *(part.ids for part in one.completions)) for one in (encoded, made))
        return made, () if all(map(np.array_equal, own, sampled)) else ("drawn_ids",)

    def _reads_as(self, ids: Sequence[int], text: str) -> bool:
        """Whether ids read as a text, with or without the last of them, which may be an end token that is not special."""
        return any(
            self._tokenizer.decode(list(part), skip_special_tokens=True) == text for part in (ids, ids[:-1]) if part
        )

    def _render(self, record: Record) -> tuple[Rendered | None, Account]:
        try:
            rendered = self.renderer.render(record)
        except RowError as error:
            return None, Account.of(error.code, record.id, error.detail, left_out=True)
        account = NOTHING
        if rendered.lost:
            detail = f"the rendered row lacks the {rendered.lost[0]}{_more(len(rendered.lost) - 1)}"
            left_out = self._decisions.leave_out("content_lost")
            account = Account.of("content_lost", record.id, detail, left_out=left_out)
            if left_out:
                return None, account
        return rendered, account + self._noted_of_rendering(record, rendered)

    def _noted_of_rendering(self, record: Record, rendered: Rendered) -> Account:
        account = NOTHING
        thoughts = (_EMPTY_THOUGHT.search(part) for whole in rendered.wholes for part in whole.counted(rendered.prompt))
        if any(thoughts):
            account += Account.of("empty_think", record.id)
        if isinstance(record.prompt, str) and not rendered.by_template and self._asks_about_text:
            account += Account.of("text_beside_template", record.id)
        template = self.renderer.template_text if rendered.by_template else ""
        unread = [name for name in record.template_args if name != "tools" and not reads(template or "", name)]
        if unread:
            detail = f"nothing reads {unread[0]!r} of chat_template_kwargs"
            account += Account.of("template_args_unread", record.id, detail)
        return account

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _encode(
        self, record: Record, item: Rendered, prompt: list[int], wholes: list[list[int]]
    ) -> tuple[Encoded, list[str]]:
        """A rendered record as token ids, and the codes of what has to be noted of it."""
        pieces, codes = self._pieces(item, prompt, wholes)
        shared = min((piece.start for piece in pieces), default=len(prompt))
        completions = [self._ended(item, piece, whole) for piece, whole in zip(pieces, item.wholes, strict=True)]
        codes += ["missing_end" for whole in item.wholes if self._lacks_end(item, whole)]
        front = self._with_bos(prompt[:shared], item.by_template)
        if not item.by_template and self._bos and prompt[: len(self._bos)] == self._bos:
            codes.append("bos_in_text")
        made: list[Completion] = []
        for piece in completions:
            between = prompt[shared : piece.start]
            ids = between + piece.ids
            counted = [False] * len(between) + piece.counted
            if not front and counted:
                counted[0] = False
            made.append(Completion(ids=_array(ids), counted=np.array(counted, dtype=np.bool_)))
        if not front and made:
            codes.append("first_token_unscored")
        codes += self._odd_tokens(record, [prompt, *wholes])
        num_leading = len(self._bos) if self._bos and front[: len(self._bos)] == self._bos else 0
        num_leading = num_leading or int(front[:1] == [self._tokenizer.bos_token_id])
        return Encoded(_array(front), tuple(made), num_leading), codes

    def _pieces(self, item: Rendered, prompt: list[int], wholes: list[list[int]]) -> tuple[list[_Piece], list[str]]:
        pieces, codes = [], []
        crossed = False
        for whole, ids in zip(item.wholes, wholes, strict=True):
            start = _common(prompt, ids)
            if start < len(prompt):
                crossed = True
                piece = self._split(item.prompt, prompt, whole, ids) if self._boundary == "split" else None
                if piece is None and self._boundary == "split":
                    codes.append("boundary_merged")
                pieces.append(piece or _Piece(ids[start:], self._counted(whole.text, whole.spans, ids)[start:], start))
            elif whole.spans is None:
                pieces.append(_Piece(ids[start:], [True] * (len(ids) - start), start))
            else:
                pieces.append(_Piece(ids[start:], self._counted(whole.text, whole.spans, ids)[start:], start))
        if crossed and not self._whole:
            codes.append("boundary")
        return pieces, codes

    def _split(self, text: str, prompt: list[int], whole: Whole, joint: list[int]) -> _Piece | None:
        """The completion's own tokens; None if the parts do not add up to the whole (some tokenizers add a space)."""
        rest = whole.text[len(text) :]
        ids = self._ids([rest])[0]
        if self._tokenizer.decode(prompt + ids) != self._tokenizer.decode(joint):
            return None
        spans = None if whole.spans is None else tuple((a - len(text), b - len(text)) for a, b in whole.spans)
        return _Piece(ids, self._counted(rest, spans, ids), len(prompt))

    def _counted(self, text: str, spans: tuple[Span, ...] | None, ids: list[int]) -> list[bool]:
        """The mask of tokens that begin inside a span."""
        if spans is None:
            return [True] * len(ids)
        if not self._tokenizer.is_fast:
            raise DataError(
                "completions of several turns need a fast tokenizer, which knows where each token stands in the text"
            )
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [any(first <= start < last for first, last in spans) for start, _ in offsets]

    def _lacks_end(self, item: Rendered, whole: Whole) -> bool:
        return not whole.ended and (item.by_template or self._eos is None)

    def _ended(self, item: Rendered, piece: _Piece, whole: Whole) -> _Piece:
        if whole.ended or self._eos is None:
            return piece
        if item.by_template and self._decisions.on("missing_end") != "append":
            return piece
        return piece._replace(ids=[*piece.ids, self._eos], counted=[*piece.counted, whole.end_counts])

    def _with_bos(self, ids: list[int], by_template: bool) -> list[int]:
        if by_template or (self._bos and ids[: len(self._bos)] == self._bos):
            return ids
        if not ids and not self._bos and self._tokenizer.bos_token_id is not None:
            return [self._tokenizer.bos_token_id]
        return self._bos + ids

    def _odd_tokens(self, record: Record, parts: list[list[int]]) -> Iterator[str]:
        if self._unknown is not None and any(self._unknown in part for part in parts):
            yield "unknown_tokens"
        if self._special and any(self._special.search(text) for text in _spoken(record)):
            yield "special_token_in_text"


@contextmanager
def _threads() -> Iterator[None]:
    """Let the tokenizer use every core if the command line switched that off; a user's own `false` is obeyed.

    Left on, it would complain of every process that is started later.
    """
    ours = os.environ.get(_SWITCH) == _SWITCHED_OFF
    if ours:
        os.environ[_SWITCH] = "true"
    try:
        yield
    finally:
        if ours:
            os.environ[_SWITCH] = _SWITCHED_OFF


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    template: Template = "auto",
    template_args: Sequence[TemplateArgs] | None = None,
    *,
    template_args_of_all: TemplateArgs | None = None,
    fold_system: bool = False,
) -> list[TokenIds]:
    """Token ids to sample from: equal to the prompts of groups that `Encoder.encode` makes of such records by `split`.

    Args:
        tokenizer: with the chat template that is meant.
        prompts: text or turns.
        template: as `data.template`.
        template_args: the records' own, one per prompt, where rows have tools or arguments for the template.
        template_args_of_all: as `data.template_args`.
        fold_system: as `data.fold_system`.
    """
    encoder = Encoder(
        tokenizer,
        decisions=Decisions({}),
        template=template,
        template_args=template_args_of_all,
        fold_system=fold_system,
    )
    return encoder.prompts(prompts, template_args)


def _spoken(record: Record) -> Iterator[str]:
    """The content of the row itself, without text that a template puts around it."""
    for text in (record.prompt, *record.completions):
        if isinstance(text, str):
            yield text
        else:
            yield from (said_by(turn) for turn in text)


def _more(count: int) -> str:
    return f", and {count} more" if count else ""


def _leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer itself puts before a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    if not bare:
        return full[:1] if full[:1] == [tokenizer.bos_token_id] else []
    starts = range(len(full) - len(bare) + 1)
    return next((full[:start] for start in starts if full[start : start + len(bare)] == bare), [])


def _unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) else unknown


def _common(first: list[int], second: list[int]) -> int:
    if second[: len(first)] == first:
        return len(first)
    return next(at for at, id_ in enumerate(first) if at >= len(second) or second[at] != id_)


def _array(ids: list[int]) -> TokenIds:
    return np.array(ids, dtype=np.int32)
