"""Remarks of a report: its warnings, its missing parts, and the commands that make its numbers again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exptilt.reports.numbers import joined, number
from exptilt.reports.report_inputs import Inputs
from exptilt.reports.words.frontier_words import above_optimum
from exptilt.run_folder.run_contents import RunContents
from exptilt.run_folder.run_record import Caution


@dataclass(frozen=True)
class Remark:
    """One warning on the page: its subject, its message and its remedy."""

    number: str = ""
    message: str = ""
    fix: str = ""


def remark_of(caution: Caution) -> Remark:
    """The remark of a guard rail's warning, numbered by its step and name, with the measured value.

    Example:
        >>> remark_of(Caution(step=20, name="drift", message="it drifts", advice="raise beta", value=1.5, limit=1.0)).number
        'step 20, drift (1.5, limit 1)'
    """
    measured = ""
    if caution.value is not None:
        limit = "" if caution.limit is None else f", limit {caution.limit:.3g}"
        measured = f" ({caution.value:.3g}{limit})"
    step = "" if caution.step is None else f"{caution.phase or ''} step {caution.step}".strip()
    alarm = "alarm" if caution.alarm else ""
    number = ", ".join(part for part in (alarm, step, caution.name) if part) + measured
    return Remark(number=number, message=caution.message, fix=caution.advice)


def cautions(inputs: Inputs) -> list[Remark]:
    """Warnings of runs, data checks, files and the frontier; a warning that several runs share is shown once."""
    runs_of: dict[tuple[str, str, str], list[str]] = {}
    for run in inputs.runs:
        for caution in run.info.warnings if run.info else ():
            remark = remark_of(caution)
            runs_of.setdefault((remark.number, remark.message, remark.fix), []).append(run.name)
        for finding in run.data.findings if run.data else []:
            if finding.severity != "info":
                times = f" ({finding.count:,} rows)" if finding.count and finding.count > 1 else ""
                runs_of.setdefault((finding.code, finding.message + times, finding.fix), []).append(run.name)
    alone = len(inputs.runs) == 1
    listed = [
        Remark(number=code, message=text if alone else f"{joined(names)}: {text}", fix=fix)
        for (code, text, fix), names in runs_of.items()
    ]
    above = above_optimum(inputs.frontier) if inputs.frontier else []
    if above:
        text = f"{joined(above)}: the whole interval lies above the optimum's, which no policy can be."
        listed.append(
            Remark(
                number="frontier",
                message=text,
                fix="Check that rewards, KL and optimum share one sampling law and one reference.",
            )
        )
    for point in inputs.frontier.ends if inputs.frontier else []:
        listed += [Remark(number="frontier", message=f"{point.name}: {note}") for note in point.notes]
    return listed + [Remark(number="files", message=notice) for notice in inputs.notices]


def alarms(inputs: Inputs) -> list[tuple[str, Remark]]:
    """Warnings that guard rails gave during training, each with the run's name."""
    return [(run.name, remark_of(caution)) for run in inputs.runs if run.info for caution in run.info.warnings]


def detectable(inputs: Inputs) -> str:
    """The smallest difference that the held-out prompts of the runs can show."""
    differences = {run.evaluation.detectable_difference for run in inputs.runs if run.evaluation}
    known = sorted(value for value in differences if value is not None)
    if not known:
        return ""
    points = " to ".join(number(100 * value, 1) for value in dict.fromkeys((known[0], known[-1])))
    return (
        f"With these held-out prompts two models must differ by {points} points for it to be seen four times in five; "
        "less where they are compared pair by pair."
    )


def commands(inputs: Inputs) -> list[str]:
    """Commands that make these numbers again."""
    if inputs.frontier is not None and inputs.frontier.command:
        return [inputs.frontier.command]
    commands_of_runs = [_command(run) for run in inputs.runs]
    return [command for command in commands_of_runs if command is not None]


def _command(run: RunContents) -> str | None:
    if run.info is not None and run.info.command is not None:
        return run.info.command
    return f"exptilt train {run.path.name}/config.yaml" if run.config_text else None


def missing(inputs: Inputs) -> list[str]:
    """Parts that this report could have and lacks, each with the way to get it."""
    sentences = []
    policies = [run for run in inputs.runs if not run.is_of_reward_model]
    for what, remedy, is_missing in _WANTED:
        asked = policies if is_missing is _has_no_samples else inputs.runs
        without = [run.name for run in asked if is_missing(run)]
        if without and not (is_missing is _has_no_samples and inputs.samples):
            who = "" if len(without) == len(inputs.runs) else f" for {joined(without)}"
            sentences.append(f"No {what}{who}: {remedy}.")
    if inputs.frontier is None and (policies or not inputs.runs):
        remedy = "it needs a reward on samples of the reference; `exptilt frontier` makes one"
        sentences.append(f"No reward-KL frontier (frontier.json): {remedy}.")
    return sentences


def _has_no_samples(run: RunContents) -> bool:
    return not run.samples


_WANTED: tuple[tuple[str, str, Callable[[RunContents], bool]], ...] = (
    ("recipe (config.yaml)", "`exptilt train` writes it", lambda run: not run.config_text),
    ("run card (run.json)", "`exptilt train` writes it", lambda run: run.info is None),
    ("data report (data.json)", "`exptilt train` writes it", lambda run: run.data is None),
    ("curves (metrics.jsonl)", "no step was logged", lambda run: not run.metrics),
    ("evaluation (evaluation.json)", "`exptilt evaluate` makes one", lambda run: run.evaluation is None),
    ("samples before and after (samples.jsonl)", "`exptilt evaluate` makes them", _has_no_samples),
)
