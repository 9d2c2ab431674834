"""Which objective fits a data set, and why: said by `exptilt init --from` and by `exptilt doctor`, with a number from the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.data.encode.chat_templates import has_template
from exptilt.data.kind_of_rows import first_records
from exptilt.data.records import Demonstration, Prompt, Record, words_of
from exptilt.kinds import COMPLETION, LIST, PROMPT, UNPAIRED, Kind
from exptilt.rewards.answer_checks import check_by_name
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.reward_settings import VerifierConfig
from exptilt.wording import counted

LONGER_WINS = 0.6
"""Share of pairs won by the longer completion from which length explains too much; the 95 % interval must lie above it."""
_ASKED_AGAIN = 30
"""Pairs labelled more than once that tell how often labels contradict: none of 30 means fewer than one in ten."""
_AGAIN_SHARE = 0.1
"""The same as a share of all pairs: fewer are copies that slipped in, not labels that were asked for again."""
_CHECKABLE = 0.9
"""Share of answers that the check must read."""
_MANY_STEPS, _SOME_STEPS = 500, 50
_STEP = 64


@dataclass(frozen=True, kw_only=True)
class MethodAdvice:
    """An objective, the reason for it, and what a recipe needs besides."""

    loss: str
    """Name of the objective; empty where there is nothing to train on yet."""
    reason: str
    """A sentence with a number from the data."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the objective that the data ask for."""
    reward: VerifierConfig | None = None
    """A reward for rounds, where answers can be checked."""
    remarks: tuple[str, ...] = ()
    """What else speaks for something."""

    def __str__(self) -> str:
        """The advice in one line."""
        what = f"rounds of {self.loss} with a verifier" if self.reward is not None else self.loss
        return f"objective that fits: {what or 'none yet'}, because {self.reason}"


def advise(config: DataConfig, kind: Kind, report: DataReport) -> MethodAdvice:
    """Choose the objective that fits rows.

        pairs                                  dpo
          the longer one wins too often        r_dpo
          labelled again, never contradicting  ipo
        good or bad marks                      kto, with weights that balance the labels
        rankings                               plackett_luce
        completions                            sft
          with answers that a check can read   rounds of dpo, labelled by that check
        prompts                                none; with checkable answers as above

    Args:
        config: the sources; their first rows are read again to see whether answers can be checked.
        kind: of the rows (`data.kind_of_rows`).
        report: on all rows, as text at least.
    """
    if kind in (COMPLETION, PROMPT):
        return _of_completions(kind, report, first_records(config))
    if kind is UNPAIRED:
        return _of_marks(report.train.num_desirable, report.train.num_undesirable)
    if kind is LIST:
        reason = f"{counted(report.train.kept or 0, 'row')} rank more than two completions of a prompt"
        return MethodAdvice(loss="plackett_luce", reason=reason)
    return _of_pairs(report)


def base_model_remark(model: str | None) -> str:
    """Why a supervised phase comes first, as far as a model's folder says; empty where it has a chat template or is not here."""
    folder = None if model is None else Path(model).expanduser()
    if folder is None or not folder.is_dir() or has_template(folder):
        return ""
    return (
        f"{model} has no chat template: it is a base model, so `sft` teaches it such answers before they are compared"
    )


def learning_rate(kind: Kind, num_examples: int) -> float:
    """Where to begin for an adapter: ten times what all weights of a large model take (`data.account.statistics.suggestion`)."""
    steps = -(-num_examples // _STEP)
    if kind.imitates:
        return 2e-4
    return 5e-6 if steps >= _MANY_STEPS else 1e-5 if steps >= _SOME_STEPS else 2e-5


def _of_pairs(report: DataReport) -> MethodAdvice:
    from exptilt.evaluation.intervals import wilson

    pairs = report.train.kept or 0
    remarks = []
    counts = {finding.code: finding.count or 0 for finding in report.findings}
    again = counts.get("duplicate", 0) + counts.get("conflict", 0) + (pairs if report.train.format == "votes" else 0)
    contradict = counts.get("conflict", 0) + counts.get("soft_labels", 0)
    if contradict:
        remarks.append(
            f"{counted(contradict, 'pair')} of {pairs:,} have labels that disagree: keep them as soft labels (on_conflict: soft)"
        )
    if report.train.longer_chosen is not None and pairs:
        longer = wilson(report.train.longer_chosen * pairs, pairs)
        share = f"{100 * report.train.longer_chosen:.1f} % of {pairs:,} pairs"
        bounds = f"{100 * (longer.low or 0):.1f} to {100 * (longer.high or 0):.1f}"
        if (longer.low or 0) > LONGER_WINS:
            reason = f"the longer completion wins {share} ({bounds}), so length would be learned in place of quality"
            return MethodAdvice(loss="r_dpo", reason=reason, remarks=tuple(remarks))
        remarks.append(f"the longer completion wins {share} ({bounds})")
    if again >= max(_ASKED_AGAIN, _AGAIN_SHARE * pairs) and not contradict:
        reason = (
            f"{counted(again, 'pair')} were labelled more than once and none contradicts (fewer than {300 / again:.2g} % do), "
            "and DPO has no finite optimum on labels without doubt"
        )
        return MethodAdvice(loss="ipo", reason=reason, remarks=tuple(remarks))
    reason = f"{counted(pairs, 'pair')} of a chosen and a rejected completion, and nothing that speaks for another one"
    return MethodAdvice(loss="dpo", reason=reason, remarks=tuple(remarks))


def _of_marks(good: int, bad: int) -> MethodAdvice:
    """KTO, with weights as its paper asks: weight times count, desirable over undesirable, is within [1, 4/3]."""
    reason = f"{counted(good + bad, 'completion')} are marked one by one, {good:,} good and {bad:,} bad"
    settings: dict[str, float] = {}
    if good and bad and good < bad:
        settings["desirable_weight"] = round(bad / good, 2)
    elif good and bad and good > 4 / 3 * bad:
        settings["undesirable_weight"] = round(good / bad, 2)
    remarks = [f"{name} {value:g} balances the marks" for name, value in settings.items()]
    if not (good and bad):
        remarks.append(f"all marks are {'good' if good else 'bad'}: nothing can be learned from them alone")
    return MethodAdvice(loss="kto", reason=reason, settings=settings, remarks=tuple(remarks))


def _of_completions(kind: Kind, report: DataReport, records: Sequence[Record]) -> MethodAdvice:
    num_rows = report.train.kept or len(records)
    check, read, asked = _check_for(records)
    if check:
        reason = (
            f"check={check} reads the answer of {read} of {asked} rows, so samples can be checked instead of compared"
        )
        return MethodAdvice(loss="dpo", reason=reason, reward=VerifierConfig(check="gsm8k"))
    if kind is PROMPT:
        return MethodAdvice(
            loss="",
            reason=f"{counted(num_rows, 'prompt')} have no answers: draw some with `exptilt sample`, compare them with "
            "`exptilt label`, or let `rounds:` do both",
        )
    return MethodAdvice(
        loss="sft", reason=f"{counted(num_rows, 'completion')} are to be imitated, and none is compared"
    )


def _check_for(records: Sequence[Record]) -> tuple[str, int, int]:
    """The check that reads the right answers of rows, how many of them, and of how many; an empty name where none does."""
    answers = [_answer_of(record) for record in records if isinstance(record, Demonstration | Prompt)]
    known = [answer for answer in answers if answer]
    if not known or len(known) < _CHECKABLE * len(answers):
        return "", 0, len(answers)
    check = check_by_name("gsm8k", {})
    read = sum(check(answer, answer) is True or check(f"#### {answer}", answer) is True for answer in known)
    return ("gsm8k" if read >= _CHECKABLE * len(answers) else ""), read, len(answers)


def _answer_of(record: Demonstration | Prompt) -> str | None:
    return record.answer if isinstance(record, Prompt) else words_of(record.completion)
