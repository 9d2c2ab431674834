"""The numbers of an evaluation in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Displacement, Evaluation
from exptilt.run_folder.file_names import EVALUATION
from exptilt.run_folder.folder import RunFolder
from exptilt.wording import counted

_GAINERS = 3
_BRIEF = {"sum", "score"}
"""Forms of accuracy that judge a policy, and a reward model."""


def print_summary(folder: RunFolder) -> None:
    """Print the few numbers that judge a finished run; nothing is printed without measurements."""
    evaluation = folder.record(Evaluation, EVALUATION) or Evaluation()
    accuracy = {
        family: {form: value for form, value in forms.items() if form in _BRIEF}
        for family, forms in evaluation.accuracy.items()
        if _BRIEF & forms.keys()
    }
    brief = Evaluation(
        accuracy=accuracy,
        longest_wins=evaluation.longest_wins,
        kl=evaluation.kl,
        num_ties=evaluation.num_ties,
        log_loss=evaluation.log_loss,
        reward=evaluation.reward,
    )
    table = evaluation_table(brief)
    if table.row_count:
        Console().print(table)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Every estimate of an evaluation with its interval, in 80 columns."""
    table = Table("measure", box=None, pad_edge=False, header_style="bold")
    for heading in ("value", "interval", "covers", "prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, estimate in _rows(evaluation).items():
        interval = "unknown" if estimate.interval is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"
        value = "undefined" if estimate.value is None else f"{estimate.value:.3f}"
        table.add_row(Text(name), value, interval, _covers(estimate), str(estimate.n))
    ties = _ties(evaluation.num_ties)
    table.caption = " ".join(part for part in (_caption(list(_rows(evaluation).values())), ties) if part) or None
    table.caption_justify = "left"
    return table


def references_table(evaluations: dict[str, Evaluation]) -> Table:
    """Every estimate against each of several references, one column each."""
    table = Table("measure", box=None, pad_edge=False, header_style="bold")
    for name in evaluations:
        table.add_column(Text(f"against {name}"), justify="right")
    columns = [_rows(evaluation) for evaluation in evaluations.values()]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(Text(name), *(Text(str(column[name])) if name in column else "" for column in columns))
    table.caption, table.caption_justify = _caption([one for column in columns for one in column.values()]), "left"
    return table


def _caption(estimates: list[Estimate]) -> str | None:
    """What the intervals cover, and how often they were measured to."""
    if not any(one.interval for one in estimates):
        return None
    said = "Intervals cover other prompts, not other seeds of the training."
    if any(one.interval and one.coverage is not None for one in estimates):
        said += " 'covers': how many of 100 such intervals held the truth when it was measured"
        said += "; * below 90." if any(one.is_doubtful for one in estimates) else "."
    return said


def _ties(count: int | None) -> str:
    return f"Left out of accuracies: {counted(count, 'tie')} (p_chosen 0.5)." if count else ""


def _covers(estimate: Estimate) -> str:
    if estimate.interval is None or estimate.coverage is None:
        return ""
    return f"{100 * estimate.coverage:.0f} %{' *' if estimate.is_doubtful else ''}"


def _rows(evaluation: Evaluation) -> dict[str, Estimate]:
    rows: dict[str, Estimate | None] = {
        f"accuracy {family.replace('_', ' ')}, {form.replace('_', ' ')}": estimate
        for family, forms in evaluation.accuracy.items()
        for form, estimate in forms.items()
    }
    if evaluation.sections is not None:
        rows |= {f"accuracy, section {name}": accuracy for name, accuracy in evaluation.sections.sections.items()}
        rows["accuracy, all sections alike"] = evaluation.sections.overall
    if evaluation.best_of is not None:
        rows |= {f"best of candidates, {name}": one for name, one in evaluation.best_of.sections.items()}
        rows["best of candidates, all sections alike"] = evaluation.best_of.overall
    for when, one in evaluation.answers.items():
        rows[f"answers right, {when}"] = one.accuracy
        rows[f"answers' calibration error, {when}"] = None if one.calibration is None else one.calibration.error
    rows |= {f"accuracy, {one.name}": one.accuracy for one in evaluation.by_familiarity}
    rows |= {"longest wins": evaluation.longest_wins, "AUC of the margin": evaluation.auc, "KL, nats": evaluation.kl}
    rows["log loss of a pair, nats"] = evaluation.log_loss
    rows |= {f"reward, {name.replace('_', ' ')}": value for name, value in (evaluation.reward or {}).items()}
    if evaluation.calibration is not None:
        rows["calibration error, debiased"] = evaluation.calibration.error
    for name, spread in evaluation.diversity.items():
        rows[f"entropy per token, {name.replace('_', ' ')}"] = spread.entropy_per_token
        rows[f"distinct of {spread.num_samples}, {name.replace('_', ' ')}"] = spread.distinct_per_prompt
    rows |= _of_displacement(evaluation.displacement)
    rows |= {f"length, {name.replace('_', ' ')}": value for name, value in evaluation.lengths.items()}
    what = "score" if evaluation.is_of_reward_model else "reward"
    for where, line in evaluation.reward_on_length.items():
        if line is not None:
            of = "data" if where == "data" else "own samples"
            rows[f"{what} for each token, {of}"] = line.slope
            rows[f"share of it explained by length, {of}"] = line.r_squared
    return {name: estimate for name, estimate in rows.items() if estimate is not None}


def _of_displacement(moved: Displacement) -> dict[str, Estimate | None]:
    return {
        "log-ratio, chosen": moved.chosen,
        "log-ratio, rejected": moved.rejected,
        "their mean, forced part": moved.forced,
        "their mean, remainder part": moved.remainder,
    }


def gainers_text(evaluation: Evaluation) -> Text:
    """The policy's samples that gained most probability, as text; empty without samples."""
    gainers = evaluation.gainers[:_GAINERS]
    text = Text()
    if gainers:
        text.append("where the probability went (fresh samples that gained most, nats):", style="bold")
    for gainer in gainers:
        texts = " ".join(f"{gainer.prompt[-60:]}|{gainer.completion[:160]}".split())
        text.append(f"\n  {gainer.log_ratio:+.1f}  {texts}")
    return text
