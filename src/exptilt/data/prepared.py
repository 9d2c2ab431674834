"""From data settings to checked, tokenised groups and the report on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from exptilt.data.account.data_report import example_of, lengths_among
from exptilt.data.account.statistics import Tally
from exptilt.data.cache import Cached, DataCache
from exptilt.data.encode.chat_templates import refuse_unread, template_of, with_chat_template
from exptilt.data.encode.rendered_rows import RenderedRows, Settlement, settled
from exptilt.data.encode.tokens import Encoder
from exptilt.data.examples import Examples, examples_of
from exptilt.data.group_maker import GroupMaker, MadeGroups
from exptilt.data.groups import Group
from exptilt.data.read.source_records import SourcePart
from exptilt.data.records import Preference, Record
from exptilt.data.splits import Split, check_splits, read_splits, refuse_errors
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.data.table import GroupTable, TableBuilder
from exptilt.data.worker_pool import mapped, num_workers
from exptilt.errors import DataError
from exptilt.kinds import Kind, kind_of
from exptilt.labels import Preferred
from exptilt.progress import progress_bar
from exptilt.run_folder.data_record import DataReport, Lengths, SourceReport, SplitReport
from exptilt.settings.data_settings import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_EXAMPLES = 3
"""Examples the report shows."""
ROWS_FOR_WORKERS = 5000
"""Fewer rows than this are tokenised sooner than processes are started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Groups to train and to test on, and the account of how they came about."""

    train: Sequence[Group]
    test: Sequence[Group]
    report: DataReport


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What preparing both splits has in common."""

    config: DataConfig
    kind: Kind
    decisions: Decisions
    tokenizer: PreTrainedTokenizerBase | None
    maker: GroupMaker

    def make(self, examples: Examples) -> MadeGroups:
        return self.maker.make(examples.kept)

    def workers_for(self, split: Split) -> int:
        """How many processes tokenise a split."""
        is_worth_it = self.tokenizer is not None and len(split.records) >= ROWS_FOR_WORKERS
        return num_workers(self.config.workers) if is_worth_it else 1


class _Done(NamedTuple):
    """Groups of one split, and the accounts of how they came about."""

    groups: GroupTable
    tally: Tally
    rows: Account
    checked: Account
    """Of examples, before they were tokenised."""
    tokenised: Account
    """Of examples, from then on."""
    num_made: int
    """Examples that the rows became."""

    @property
    def of_examples(self) -> Account:
        return self.checked + self.tokenised


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
        DataError: if a source cannot be read or, where strict, rows are wrong and no setting says what to do, or
            nothing is left.
    """
    kind = kind_of(kind)
    if tokenizer is not None:
        tokenizer = with_chat_template(tokenizer, config.chat_template)
    cached = DataCache.of(config, tokenizer, kind.name, max_tokens)
    found = cached.read() if cached is not None else None
    if found is None:
        train, test = read_splits(config, Decisions(config.decisions))
        prepared = _prepare(train, test, _work(config, tokenizer, kind, max_tokens))
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
        config: for the decisions and the rendering; its sources are not read.
        max_tokens: what the model can hold.
    """
    config = config or DataConfig(train="records")
    tokenizer = with_chat_template(tokenizer, config.chat_template)
    train = Split(source="records", format="records", rows=len(records), records=list(records))
    held_out = Split(source="records", format="records", rows=len(test), records=list(test)) if test else None
    return refused(_prepare(train, held_out, _work(config, tokenizer, kind_of(kind), max_tokens)))


def _work(config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, kind: Kind, max_tokens: int | None) -> _Work:
    decisions = Decisions(config.decisions)
    encoder, own_marks = None, ""
    if tokenizer is not None:
        template = template_of(tokenizer)
        if config.template_args:
            refuse_unread(template, config.template_args)
        encoder = Encoder(
            tokenizer,
            decisions=decisions,
            template=config.template,
            boundary=config.boundary,
            template_args=config.template_args,
            fold_system=config.fold_system,
            whole=kind.scores,
        )
        own_marks = " ".join([*encoder.renderer.special_tokens, template or ""])
    limits = [limit for limit in (config.max_tokens, max_tokens) if limit is not None]
    maker = GroupMaker(
        encoder=encoder,
        decisions=decisions,
        template=config.template,
        max_tokens=min(limits, default=None),
        own_marks=own_marks,
    )
    return _Work(config=config, kind=kind, decisions=decisions, tokenizer=tokenizer, maker=maker)


def _prepare(train: Split, test: Split | None, work: _Work) -> Prepared:
    train, test = check_splits(train, test, work.decisions)
    done = _grouped(train, work)
    done_test = _grouped(test, work) if test is not None else None
    both = [done] if done_test is None else [done, done_test]
    account = sum((one.rows for one in both), NOTHING) + sum((one.of_examples for one in both), NOTHING)
    account += done.tally.account(work.kind)
    report = DataReport(
        kind=work.kind.name,
        train=_report(train, done, work.kind),
        test=_report(test, done_test, work.kind) if test is not None and done_test is not None else None,
        findings=account.findings(work.decisions),
        examples=tuple(example_of(group, work.tokenizer) for group in done.groups[:_NUM_EXAMPLES])
        if work.tokenizer is not None
        else (),
    )
    test_groups = GroupTable.of(()) if done_test is None else done_test.groups
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


def _report(split: Split, done: _Done, kind: Kind) -> SplitReport:
    tally = done.tally
    return SplitReport(
        source=split.source,
        format=split.format,
        rows=split.rows,
        rows_left_out=dict(done.rows.left_out),
        examples=done.num_made,
        examples_left_out=dict(done.of_examples.left_out),
        kept=tally.examples,
        lengths=lengths_of(done.groups, kind),
        longer_chosen=tally.longer_chosen,
        more_markup_chosen=tally.markup_chosen,
        p_chosen=tally.p_chosen,
        num_desirable=tally.desirable,
        num_undesirable=tally.undesirable,
        repeated=split.repeated,
        sources=tuple(_source(part) for part in split.parts),
        columns_not_read=split.columns_not_read,
    )


def _source(part: SourcePart) -> SourceReport:
    return SourceReport(
        path=part.source.path,
        format=part.format,
        rows=part.rows,
        records=part.num_records,
        weight=part.source.weight,
        licence=part.licence,
    )


def _grouped(split: Split, work: _Work) -> _Done:
    """Convert, check and tokenise the records of a split chunk by chunk."""
    builder, rendered, tally = TableBuilder(), RenderedRows(), Tally()
    rows, checked, tokenised, num_made = split.account, NOTHING, NOTHING, 0
    doing = "tokenising" if work.tokenizer is not None else "checking"
    with progress_bar(len(split.records), doing=doing, unit=" rows") as progress:
        chunks = examples_of(split.records, work.kind, work.config, work.decisions)
        for examples, made in mapped(work.make, chunks, work.workers_for(split)):
            if made.batch is not None:
                builder.extend(made.batch)
            rendered += made.rendered
            tally += made.tally
            rows += examples.rows
            checked += examples.account
            tokenised += made.account
            num_made += examples.num_made
            progress.update(examples.num_records)
    done = _Done(builder.table(), tally, rows, checked, tokenised, num_made)
    settlement = rendered.settle(done.groups, work.decisions)
    done = done._replace(tokenised=tokenised + settlement.account)
    return _settled(done, settlement, split, work) if settlement.left_out else done


def _settled(done: _Done, settlement: Settlement, split: Split, work: _Work) -> _Done:
    """What is left once examples that are the same as tokens are settled; the text is counted once more."""
    groups = GroupTable.of(settled(done.groups, settlement))
    labels = {group.id: group.label for group in groups}
    tally = Tally()
    for examples in examples_of(split.records, work.kind, work.config, work.decisions):
        for example in examples.kept:
            if example.id not in labels:
                continue
            label = labels[example.id]
            if isinstance(example, Preference) and isinstance(label, Preferred):
                example = replace(example, p_chosen=label.p_chosen)
            tally.add(example)
    return done._replace(groups=groups, tally=tally)


def lengths_of(groups: GroupTable, kind: Kind) -> dict[str, Lengths]:
    """Lengths of prompts and of every side, in tokens; of all completions together where sides have no names."""
    if not groups:
        return {}
    lengths = {"prompt": lengths_among(groups.prompt_lengths)}
    for position, name in enumerate(kind.sides):
        lengths[name] = lengths_among(groups.completion_lengths(position))
    if not kind.sides and kind.is_trained:
        lengths["completion"] = lengths_among(groups.completion_lengths())
    return lengths


def _refuse_nothing(split: SplitReport | None) -> None:
    if split is not None and split.kept == 0:
        reasons = {**split.rows_left_out, **split.examples_left_out}
        why = ", ".join(f"{count} {code}" for code, count in reasons.items()) or "nothing was in it"
        raise DataError(f"{split.source}: none of its {split.rows} rows is left to use: {why}")
