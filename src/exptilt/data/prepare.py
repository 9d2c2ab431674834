"""From data settings to checked, tokenised groups and the report on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exptilt.data.checks import longer_side
from exptilt.data.conversions import Kind
from exptilt.data.encode import Encoded, Encoder
from exptilt.data.fit import fit
from exptilt.data.groups import Group
from exptilt.data.intake import Examples, Split, check_splits, make_examples, read_splits, refuse_errors
from exptilt.data.problems import Ledger, RowError
from exptilt.data.records import Preference, Ranking, Rating, Record
from exptilt.data.report import DataReport, Lengths, SplitReport
from exptilt.data.sources import DataConfig
from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEW = 100
"""Fewer examples than this are worth a word."""
_BIAS = 0.1
"""How far from one half the share of longer chosen completions is worth a word."""
_CHUNK = 512
"""Records tokenised at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Groups to train and to test on, and the account of how they came about."""

    train: list[Group]
    test: list[Group]
    report: DataReport


@dataclass(kw_only=True)
class _Work:
    """What preparing both splits has in common."""

    config: DataConfig
    kind: Kind
    ledger: Ledger
    encoder: Encoder | None
    max_tokens: int | None


@dataclass(kw_only=True)
class _Done:
    """Groups of one split and why examples are not among them."""

    groups: list[Group] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    kind: Kind,
    max_tokens: int | None = None,
    *,
    strict: bool = True,
) -> Prepared:
    """Read, check, convert, render and tokenise the data of a run.

    Args:
        config: where the data is and what happens to wrong rows.
        tokenizer: the policy's; None makes the checks on text only, and no groups.
        kind: what the objective is trained on.
        max_tokens: what the model can hold; the smaller of this and `config.max_tokens` holds.
        strict: whether findings that are errors raise; `False` is for looking at them.

    Raises:
        DataError: if a source cannot be read or, where strict, rows are wrong and no policy says what to do, or
            nothing is left.
    """
    ledger = Ledger(config.policies)
    train, test = read_splits(config, ledger)
    return _prepare(train, test, _work(config, tokenizer, kind, max_tokens, ledger), strict)


def prepare_records(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    *,
    test: Sequence[Record] = (),
    config: DataConfig | None = None,
    max_tokens: int | None = None,
) -> Prepared:
    """As `prepare`, for records made in Python.

    Args:
        records: to train on.
        tokenizer: the policy's.
        kind: what the objective is trained on.
        test: held-out records.
        config: for the policies and the rendering; its sources are not read.
        max_tokens: what the model can hold.
    """
    config = config or DataConfig(train="records")
    ledger = Ledger(config.policies)
    train = Split(source="records", format="records", rows=len(records), records=list(records))
    held_out = Split(source="records", format="records", rows=len(test), records=list(test)) if test else None
    return _prepare(train, held_out, _work(config, tokenizer, kind, max_tokens, ledger), strict=True)


def _work(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, kind: Kind, max_tokens: int | None, ledger: Ledger
) -> _Work:
    encoder = None
    if tokenizer is not None:
        encoder = Encoder(tokenizer, ledger=ledger, template=config.template, boundary=config.boundary)
    limits = [limit for limit in (config.max_tokens, max_tokens) if limit is not None]
    return _Work(config=config, kind=kind, ledger=ledger, encoder=encoder, max_tokens=min(limits, default=None))


def _prepare(train: Split, test: Split | None, work: _Work, strict: bool) -> Prepared:
    check_splits(train, test, work.ledger)
    groups, train_report = _split(train, work)
    test_groups, test_report = _split(test, work) if test is not None else ([], None)
    if train_report.kept < _FEW:
        work.ledger.note(
            "few", detail=f"there are only {train_report.kept} examples to train on", count=train_report.kept
        )
    _note_length_bias(train_report, work.ledger)
    report = DataReport(kind=work.kind, train=train_report, test=test_report, findings=work.ledger.findings())
    if strict:
        refuse_errors(report.findings)
        for split in (train_report, test_report):
            _refuse_nothing(split)
    return Prepared(train=groups, test=test_groups, report=report)


def _split(split: Split, work: _Work) -> tuple[list[Group], SplitReport]:
    examples = make_examples(split, work.kind, work.config, work.ledger)
    done = _grouped(examples, work) if work.encoder else _Done(kept=examples.kept)
    pairs = [record for record in done.kept if isinstance(record, Preference)]
    report = SplitReport(
        source=split.source,
        format=split.format,
        rows=split.rows,
        rows_left_out=dict(split.rows_left_out),
        examples=examples.num_converted,
        examples_left_out=dict(examples.left_out + done.left_out),
        kept=len(done.kept),
        lengths=_lengths(done.groups, work.kind),
        longer_chosen=sum(longer_side(pair) > 0 for pair in pairs) / len(pairs) if pairs else None,
        columns_not_read=split.columns_not_read,
    )
    return done.groups, report


def _grouped(examples: Examples, work: _Work) -> _Done:
    from tqdm import tqdm

    done = _Done()
    if work.encoder is None:
        return done
    starts = range(0, len(examples.kept), _CHUNK)
    for start in tqdm(starts, desc="tokenising", unit=f" x {_CHUNK} rows", disable=None, delay=2):
        records = examples.kept[start : start + _CHUNK]
        for record, encoded in zip(records, work.encoder.encode(records), strict=True):
            fitted = _fit(record, encoded, work)
            if isinstance(fitted, str):
                done.left_out[fitted] += 1
            else:
                done.kept.append(record)
                done.groups.append(_group(record, fitted))
    return done


def _fit(record: Record, encoded: Encoded | RowError, work: _Work) -> Encoded | str:
    if isinstance(encoded, RowError):
        work.ledger.decide(encoded.code, record.id, encoded.detail)
        return encoded.code
    return fit(encoded, record.id, work.max_tokens, work.ledger)


def _group(record: Record, encoded: Encoded) -> Group:
    extra: dict[str, Any] = {}
    if isinstance(record, Preference):
        extra = {"p_chosen": record.p_chosen, "margin": record.margin}
    elif isinstance(record, Ranking):
        extra = {"ranks": record.ranks, "scores": record.scores}
    elif isinstance(record, Rating):
        extra = {"desirable": record.desirable, "scores": None if record.score is None else (record.score,)}
    return Group(id=record.id, prompt=encoded.prompt, completions=encoded.completions, weight=record.weight, **extra)


def _lengths(groups: Sequence[Group], kind: Kind) -> dict[str, Lengths]:
    if not groups:
        return {}
    lengths = {"prompt": Lengths.of([len(group.prompt) for group in groups])}
    if kind == "pair":
        for position, name in enumerate(("chosen", "rejected")):
            lengths[name] = Lengths.of([group.completions[position].length for group in groups])
    else:
        lengths["completion"] = Lengths.of([part.length for group in groups for part in group.completions])
    return lengths


def _note_length_bias(report: SplitReport, ledger: Ledger) -> None:
    share = report.longer_chosen
    if share is not None and report.kept >= _FEW and abs(share - 0.5) > _BIAS:
        detail = (
            f"the longer completion is chosen in {100 * share:.1f} % of pairs; compare with it what the policy learns"
        )
        ledger.note("length_bias", detail=detail, count=round(share * report.kept))


def _refuse_nothing(split: SplitReport | None) -> None:
    if split is not None and split.kept == 0:
        reasons = {**split.rows_left_out, **split.examples_left_out}
        why = ", ".join(f"{count} {code}" for code, count in reasons.items()) or "nothing was in it"
        raise DataError(f"{split.source}: none of its {split.rows} rows is left to use: {why}")
