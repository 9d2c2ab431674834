"""From data settings to checked, tokenised groups and the report on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from exptilt.data.account.data_report import example_of, lengths_among
from exptilt.data.account.statistics import Tally
from exptilt.data.cache import Cached, DataCache
from exptilt.data.checks.record_checks import has_tools_without_template, template_mark
from exptilt.data.encode.chat_templates import refuse_unread, template_of, with_chat_template
from exptilt.data.encode.fewer_turns import fewer_turns, has_turns
from exptilt.data.encode.fit import fit
from exptilt.data.encode.rendered_rows import RenderedRows, Settlement, is_identical_only_rendered, settled
from exptilt.data.encode.tokens import Encoded, Encoder
from exptilt.data.groups import Group
from exptilt.data.problems import Ledger, RowError
from exptilt.data.read.source_records import SourcePart
from exptilt.data.records import Preference, Record
from exptilt.data.splits import Examples, Split, check_splits, read_splits, refuse_errors
from exptilt.data.table import GroupTable, TableBuilder
from exptilt.errors import DataError
from exptilt.kinds import Kind, kind_of
from exptilt.labels import Preferred
from exptilt.run_folder.data_record import DataReport, Lengths, SourceReport, SplitReport
from exptilt.settings.data_settings import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_EXAMPLES = 3
"""Examples the report shows."""
_CHUNK = 512
"""Records tokenised at a time."""
_TOOLS_ARE_LOST = "tools need a chat template, and none is used for this row; data.template=chat puts text through it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Groups to train and to test on, and the account of how they came about."""

    train: Sequence[Group]
    test: Sequence[Group]
    report: DataReport


@dataclass(kw_only=True)
class _Work:
    """What preparing both splits has in common."""

    config: DataConfig
    kind: Kind
    ledger: Ledger
    tokenizer: PreTrainedTokenizerBase | None
    encoder: Encoder | None
    max_tokens: int | None
    own_marks: str = ""
    """The tokenizer's special tokens and its chat template."""


@dataclass(kw_only=True)
class _Done:
    """Groups of one split and why examples are not among them."""

    groups: GroupTable
    tally: Tally
    left_out: Counter[str]


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    kind: Kind | str,
    max_tokens: int | None = None,
    *,
    strict: bool = True,
) -> Prepared:
    """Read, check, convert, render and tokenise the data of a run.

    Args:
        config: where the data is and what happens to wrong rows.
        tokenizer: the policy's; None makes the checks on text only, and no groups.
        kind: of the objective (`loss.kind`), or its name.
        max_tokens: what the model can hold; the smaller of this and `config.max_tokens` holds.
        strict: whether findings that are errors raise; `False` is for looking at them.

    Raises:
        DataError: if a source cannot be read or, where strict, rows are wrong and no policy says what to do, or
            nothing is left.
    """
    kind = kind_of(kind)
    if tokenizer is not None:
        tokenizer = with_chat_template(tokenizer, config.chat_template)
    cached = DataCache.of(config, tokenizer, kind.name, max_tokens)
    found = cached.read() if cached is not None else None
    if found is None:
        ledger = Ledger(config.policies)
        train, test = read_splits(config, ledger)
        prepared = _prepare(train, test, _work(config, tokenizer, kind, max_tokens, ledger))
        if cached is not None:
            cached.write(Cached(prepared.train, prepared.test, prepared.report))
    else:
        prepared = Prepared(train=found.train, test=found.test, report=found.report)
    return refused(prepared) if strict else prepared


def prepare_records(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind | str,
    *,
    test: Sequence[Record] = (),
    config: DataConfig | None = None,
    max_tokens: int | None = None,
) -> Prepared:
    """As `prepare`, for records made in Python.

    Args:
        records: to train on.
        tokenizer: the policy's.
        kind: of the objective (`loss.kind`), or its name.
        test: held-out records.
        config: for the policies and the rendering; its sources are not read.
        max_tokens: what the model can hold.
    """
    config = config or DataConfig(train="records")
    tokenizer = with_chat_template(tokenizer, config.chat_template)
    ledger = Ledger(config.policies)
    train = Split(source="records", format="records", rows=len(records), records=list(records))
    held_out = Split(source="records", format="records", rows=len(test), records=list(test)) if test else None
    return refused(_prepare(train, held_out, _work(config, tokenizer, kind_of(kind), max_tokens, ledger)))


def _work(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, kind: Kind, max_tokens: int | None, ledger: Ledger
) -> _Work:
    encoder, own_marks = None, ""
    if tokenizer is not None:
        template = template_of(tokenizer)
        if config.template_args:
            refuse_unread(template, config.template_args)
        encoder = Encoder(
            tokenizer,
            ledger=ledger,
            template=config.template,
            boundary=config.boundary,
            template_args=config.template_args,
            fold_system=config.fold_system,
        )
        own_marks = " ".join([*encoder.renderer.special_tokens, template or ""])
    limits = [limit for limit in (config.max_tokens, max_tokens) if limit is not None]
    return _Work(
        config=config,
        kind=kind,
        ledger=ledger,
        tokenizer=tokenizer,
        encoder=encoder,
        max_tokens=min(limits, default=None),
        own_marks=own_marks,
    )


def _prepare(train: Split, test: Split | None, work: _Work) -> Prepared:
    check_splits(train, test, work.ledger)
    done, train_report = _split(train, work)
    test_groups, test_report = GroupTable.of(()), None
    if test is not None:
        test_done, test_report = _split(test, work)
        test_groups = test_done.groups
    done.tally.note(work.kind, work.ledger)
    report = DataReport(
        kind=work.kind.name,
        train=train_report,
        test=test_report,
        findings=work.ledger.findings(),
        examples=tuple(example_of(group, work.tokenizer) for group in done.groups[:_NUM_EXAMPLES])
        if work.tokenizer is not None
        else (),
    )
    return Prepared(train=done.groups, test=test_groups, report=report)


def refused(prepared: Prepared) -> Prepared:
    """The same rows.

    Raises:
        DataError: if they have errors, or if nothing is left of them.
    """
    refuse_errors(prepared.report.findings)
    for split in (prepared.report.train, prepared.report.test):
        _refuse_nothing(split)
    return prepared


def _split(split: Split, work: _Work) -> tuple[_Done, SplitReport]:
    examples = Examples(split=split, kind=work.kind, config=work.config, ledger=work.ledger)
    done = _grouped(examples, work)
    split.records = ()
    tally = done.tally
    report = SplitReport(
        source=split.source,
        format=split.format,
        rows=split.rows,
        rows_left_out=dict(split.rows_left_out),
        examples=examples.num_converted,
        examples_left_out=dict(examples.left_out + done.left_out),
        kept=tally.examples,
        lengths=lengths_of(done.groups, work.kind),
        longer_chosen=tally.longer_chosen,
        more_markup_chosen=tally.markup_chosen,
        p_chosen=tally.p_chosen,
        num_desirable=tally.desirable,
        num_undesirable=tally.undesirable,
        repeated=split.repeated,
        sources=tuple(_source(part) for part in split.parts),
        columns_not_read=split.columns_not_read,
    )
    return done, report


def _source(part: SourcePart) -> SourceReport:
    return SourceReport(
        path=part.source.path,
        format=part.format,
        rows=part.rows,
        records=part.num_records,
        weight=part.source.weight,
        licence=part.licence,
    )


def _grouped(examples: Examples, work: _Work) -> _Done:
    """Tokenise examples chunk by chunk; without a tokenizer only count them."""
    from tqdm import tqdm

    builder, tally, left_out = TableBuilder(), Tally(), Counter[str]()
    rendered = RenderedRows()
    doing = "tokenising" if work.encoder else "checking"
    rows = tqdm(examples, desc=doing, total=len(examples.split.records), unit=" rows", disable=None, delay=2)
    kept = iter(rows)
    while records := list(islice(kept, _CHUNK)):
        for record in records:
            mark = template_mark(record, work.own_marks)
            if mark is not None:
                work.ledger.note("template_in_text", record.id, f"the text holds {mark!r}, the mark of a chat template")
        if work.encoder is None:
            for record in records:
                if has_tools_without_template(record, work.config.template):
                    work.ledger.decide("template_refused", record.id, _TOOLS_ARE_LOST)
                    left_out["template_refused"] += 1
                else:
                    tally.add(record)
            continue
        for record, encoded in zip(records, work.encoder.encode(records), strict=True):
            fitted = _fit(record, encoded, work)
            if isinstance(fitted, str):
                left_out[fitted] += 1
            else:
                group = _group(record, fitted)
                tally.add(record)
                builder.add(group)
                rendered.add(record, group)
    done = _Done(groups=builder.table(), tally=tally, left_out=left_out)
    settlement = rendered.settle(done.groups, work.ledger)
    return _settled(done, settlement, examples) if settlement.left_out else done


def _settled(done: _Done, settlement: Settlement, examples: Examples) -> _Done:
    """What is left once examples that are the same as tokens are settled; the text is counted once more."""
    groups = GroupTable.of(settled(done.groups, settlement))
    labels = {group.id: group.label for group in groups}
    again = replace(
        examples,
        split=replace(examples.split, rows_left_out=Counter()),
        ledger=examples.ledger.like(),
        left_out=Counter(),
    )
    tally = Tally()
    for record in again:
        if record.id not in labels:
            continue
        label = labels[record.id]
        if isinstance(record, Preference) and isinstance(label, Preferred):
            record = replace(record, p_chosen=label.p_chosen)
        tally.add(record)
    return _Done(groups=groups, tally=tally, left_out=done.left_out + Counter(settlement.left_out.values()))


def _fit(record: Record, encoded: Encoded | RowError, work: _Work) -> Encoded | str:
    if isinstance(encoded, RowError):
        if encoded.code != "content_lost":  # which the encoder has decided about
            work.ledger.decide(encoded.code, record.id, encoded.detail)
        return encoded.code
    if is_identical_only_rendered(record, encoded):
        detail = "identical once it is rendered: the chat template leaves out what differs"
        if work.ledger.leaves_out("identical", record.id, detail):
            return "identical"
    encoder = work.encoder
    fewer = partial(fewer_turns, encoder, record) if encoder and has_turns(encoder, record) else None
    return fit(encoded, record.id, work.max_tokens, work.ledger, fewer)


def _group(record: Record, encoded: Encoded) -> Group:
    completions = encoded.completions
    if record.scores is not None:
        scored = zip(completions, record.scores, strict=True)
        completions = tuple(replace(completion, score=score) for completion, score in scored)
    return Group(
        id=record.id,
        prompt=encoded.prompt,
        completions=completions,
        label=record.label,
        weight=record.weight,
        section=record.section if isinstance(record, Preference) else None,
    )


def lengths_of(groups: GroupTable, kind: Kind) -> dict[str, Lengths]:
    """Lengths of prompts and of every side, in tokens; of all completions together where sides have no names."""
    if not groups:
        return {}
    lengths = {"prompt": lengths_among(groups.prompt_lengths)}
    for position, name in enumerate(kind.sides):
        lengths[name] = lengths_among(groups.completion_lengths(position))
    if not kind.sides:
        lengths["completion"] = lengths_among(groups.completion_lengths())
    return lengths


def _refuse_nothing(split: SplitReport | None) -> None:
    if split is not None and split.kept == 0:
        reasons = {**split.rows_left_out, **split.examples_left_out}
        why = ", ".join(f"{count} {code}" for code, count in reasons.items()) or "nothing was in it"
        raise DataError(f"{split.source}: none of its {split.rows} rows is left to use: {why}")
