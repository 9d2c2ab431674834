"""The rows of the page's sections, as plain values for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exptilt.reports.displacement_section import displacement_rows
from exptilt.reports.figures.frontier_figure import colour_index, colour_keys
from exptilt.reports.figures.held_out_figures import lengths
from exptilt.reports.figures.svg import INK, SERIES, Figure
from exptilt.reports.numbers import NO_INTERVAL, duration, estimate, number, plain
from exptilt.reports.report_inputs import Inputs
from exptilt.reports.words.frontier_words import gained, is_trusted
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Calibration, Evaluation
from exptilt.run_folder.frontier_record import Frontier, is_reference, with_reference_point
from exptilt.run_folder.run_contents import RunContents
from exptilt.run_folder.run_record import ReferenceIdentity, RunRecord
from exptilt.run_folder.samples_record import SideBySide
from exptilt.settings.declaration import dotted

FIRST_SAMPLES, OTHER_SAMPLES = 12, 3
_SETTINGS = {
    "Objective": ("loss", "name"),
    "Beta": ("loss", "beta"),
    "Learning rate": ("optim", "learning_rate"),
    "Schedule": ("optim", "schedule"),
    "Batch": ("batch", "size"),
    "Epochs": ("train", "epochs"),
    "Seed": ("seed",),
    "Dtype": ("model", "dtype"),
}
_FAMILIES = {
    "with_reference": "Log-ratio accuracy (with reference)",
    "without_reference": "Likelihood-ranking accuracy (without reference)",
    "reward_model": "Accuracy of the reward model",
}
_HEADINGS = {"name": "Which pairs", "accuracy": "Accuracy", "num_pairs": "Pairs"}


@dataclass(frozen=True)
class Row:
    """One row of the frontier's table."""

    name: str
    colour: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class SampleGroup:
    """Side-by-sides of one run: the first few in file order, without selection."""

    name: str
    shown: tuple[SideBySide, ...]
    total: int


def frontier_rows(frontier: Frontier | None) -> list[Row]:
    """Rows for every policy with reward, gain, KL, share of the optimum and length; then rows for best-of-N."""
    if frontier is None:
        return []
    words = {"above": "yes", "below": "no, lower", "overlaps": "unclear", "unknown": "no interval"}
    colours = colour_keys(frontier)
    rows = []
    for point in with_reference_point(frontier).ends:
        if is_reference(point):
            still = (estimate(point.reward), number(point.kl.value), *("—",) * 4)
            rows.append(Row(point.name, "var(--ink)", still))
            continue
        upper = "" if point.fraction is None or is_trusted(point, frontier) else " *"
        shares = [estimate(fraction, percent=True) for fraction in (point.fraction, point.kl_fraction)]
        cells = (
            estimate(point.reward),
            estimate(point.kl),
            words[gained(point, frontier)],
            shares[0] + upper,
            shares[1],
            estimate(point.gap),
        )
        rows.append(Row(point.name, f"var(--s{colour_index(point, colours)})", cells))
    for best in frontier.best_of_n:
        kl = ("at most " if best.kl_is == "upper bound" else "") + number(best.kl)
        rows.append(Row(f"best of {best.n}", "var(--muted)", (estimate(best.reward), kl, *("—",) * 4)))
    return rows


def spread_rows(frontier: Frontier | None) -> list[list[str]]:
    """Objectives trained with several seeds: reward and KL over seeds and prompts, and the size of either spread."""
    rows = []
    for spread in frontier.spreads if frontier else ():
        cells = [spread.objective, str(len(spread.seeds))]
        for part in (spread.reward, spread.kl):
            cells += [estimate(part.mean), number(part.sd_of_seeds), number(part.error_of_prompts)]
        rows.append(cells)
    return rows


def diversity_rows(frontier: Frontier | None) -> list[list[str]]:
    """Entropy and distinct samples of the reference and of every policy, where they were measured."""
    if frontier is None:
        return []
    known = [("reference", frontier.reference_diversity), *((point.name, point.diversity) for point in frontier.ends)]
    return [
        [name, estimate(one.entropy_per_token), f"{estimate(one.distinct_per_prompt)} of {one.num_samples}"]
        for name, one in known
        if one is not None
    ]


def run_cards(runs: Sequence[RunContents]) -> list[tuple[str, list[str]]]:
    """Facts about the runs: a row per fact, a value per run; rows without any value are left out."""
    cards = [_card(run) for run in runs]
    rows = [(name, [plain(card[name]) for card in cards]) for name in (cards[0] if cards else ())]
    return [(name, values) for name, values in rows if any(value != "—" for value in values)]


def _card(run: RunContents) -> dict[str, Any]:
    info = run.info or RunRecord()
    reference = info.reference or ReferenceIdentity()
    last_step = int(run.metrics[-1]["step"]) if run.metrics else None
    return {
        "Status": info.status,
        "Model": info.model.name or run.setting("model", "path"),
        "Parameters": info.model.parameters,
        "Reference": reference.source or reference.identity,
        **{label: run.setting(*keys) for label, keys in _SETTINGS.items()},
        "Steps done": last_step if info.steps is None else info.steps,
        "Weights of step": None if info.kept is None else f"{info.kept.step} (best by {info.kept.metric})",
        "Time": duration(info.seconds),
        "Hardware": info.hardware,
        "Started": None if info.started is None else info.started[:16].replace("T", " "),
        "exptilt": info.exptilt,
        "Versions": info.versions or None,
    }


def differences(runs: Sequence[RunContents]) -> list[tuple[str, list[str]]]:
    """Recipe keys whose values differ between runs."""
    flat = [dotted(run.config) for run in runs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [(key, [plain(settings.get(key)) for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def gap_tables(runs: Sequence[RunContents]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Accuracy by length difference: (run, column names, rows)."""
    tables = []
    for run in runs:
        slices = (
            [*run.evaluation.by_longer, *run.evaluation.by_length_gap, *run.evaluation.by_familiarity]
            if run.evaluation
            else []
        )
        rows = [slice_.as_dict() for slice_ in slices]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            tables.append(
                (
                    run.name,
                    [_HEADINGS.get(column, _name(column)) for column in columns],
                    [[_cell(column, row.get(column)) for column in columns] for row in rows],
                )
            )
    return tables


def measured_tables(runs: Sequence[RunContents]) -> dict[str, list[tuple[str, list[str]]]]:
    """Numbers of the evaluations by section of the page: a row per number, a value per run."""
    makers = {"accuracy": accuracies_of, "displacement": displacement_rows, "length": _about_length}
    return {name: _side_by_side([maker(run.evaluation) for run in runs]) for name, maker in makers.items()}


def _side_by_side(columns: list[dict[str, str]]) -> list[tuple[str, list[str]]]:
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [(name, [column.get(name, "—") for column in columns]) for name in names]


def _about_length(evaluation: Evaluation | None) -> dict[str, str]:
    if evaluation is None:
        return {}
    rows = {f"Mean, {_name(name)}, tokens": estimate(value) for name, value in evaluation.lengths.items()}
    differences = {
        "Chosen less rejected, tokens": evaluation.length_difference,
        "Policy samples less reference samples, tokens": evaluation.length_change,
    }
    rows |= {name: estimate(value) for name, value in differences.items() if value is not None}
    rows |= {
        f"Ended by themselves, {_name(name)}": estimate(value, percent=True) for name, value in evaluation.ended.items()
    }
    what = "Score" if evaluation.is_of_reward_model else "Implicit reward"
    for where, line in evaluation.reward_on_length.items():
        of = "held-out pairs" if where == "data" else "its own samples"
        if line is not None:
            rows[f"{what} for each token, {of}"] = estimate(line.slope)
            rows[
                f"Share of that {'score' if evaluation.is_of_reward_model else 'reward'} which length explains, {of}"
            ] = estimate(line.r_squared, percent=True)
    return rows


def section_rows(run: RunContents) -> list[tuple[str, str, str]]:
    """Sections of a benchmark, each followed by its subsets: (name, accuracy, weight); then the row of all sections."""
    accuracies = run.evaluation.sections if run.evaluation else None
    if accuracies is None or not accuracies.sections:
        return []
    rows = []
    for name, accuracy in accuracies.sections.items():
        parts = {
            part: weight for part, weight in accuracies.weights.get(name, {}).items() if part in accuracies.subsets
        }
        rows.append((name, estimate(accuracy, percent=True), ""))
        if list(parts) != [name]:
            rows += [
                (f"\u2003{part}", estimate(accuracies.subsets[part], percent=True), number(parts[part]))
                for part in parts
            ]
    return [*rows, ("All sections, alike", estimate(accuracies.overall, percent=True), "")]


def length_figure(inputs: Inputs, colours: Sequence[str]) -> Figure | None:
    """The figure of lengths before and after: of the frontier's policies, else of the evaluations."""
    if inputs.frontier is not None and any(_value(point.length) is not None for point in inputs.frontier.points):
        keys = colour_keys(inputs.frontier)
        points = inputs.frontier.ends
        return lengths(
            [
                (p.name, p.length, INK if is_reference(p) else SERIES[colour_index(p, keys)])
                for p in points
                if p.length is not None
            ]
        )
    rows = []
    for run, colour in zip(inputs.runs, colours, strict=False):
        named = run.evaluation.lengths if run.evaluation else {}
        rows += [
            (_name(name) if len(inputs.runs) == 1 else f"{run.name}: {_name(name)}", length, colour)
            for name, length in named.items()
        ]
    return lengths(rows)


def sample_groups(inputs: Inputs) -> list[SampleGroup]:
    """Groups of side-by-sides; the first group has more of them."""
    limits = [FIRST_SAMPLES] + [OTHER_SAMPLES] * len(inputs.samples)
    return [
        SampleGroup(name, samples[:limit], len(samples))
        for (name, samples), limit in zip(inputs.samples, limits, strict=False)
    ]


def accuracies_of(evaluation: Evaluation | None) -> dict[str, str]:
    """What an evaluation says of preferences, answers and samples, by name, as text."""
    if evaluation is None:
        return {}
    named = {}
    for scores, reductions in evaluation.accuracy.items():
        for reduction, value in reductions.items():
            named[f"{_FAMILIES.get(scores, _name(scores))}, {_name(reduction)}"] = estimate(value, percent=True)
    if evaluation.longest_wins is not None:
        named["Accuracy of always taking the longer"] = estimate(evaluation.longest_wins, percent=True)
    if evaluation.auc is not None:
        named["AUC of the margin"] = estimate(evaluation.auc)
    if evaluation.log_loss is not None:
        named["Log loss of a pair, nats (0.693 knows nothing)"] = estimate(evaluation.log_loss)
    if evaluation.num_ties:
        named["Pairs that people found equal, not counted"] = number(evaluation.num_ties)
    if evaluation.calibration is not None:
        named["Calibration error (ECE), debiased"] = _calibration(evaluation.calibration)
    named |= _candidates(evaluation) | _diversity(evaluation)
    if evaluation.kl is not None:
        named["KL(policy ‖ reference), nats per reply"] = estimate(evaluation.kl)
    rewards = evaluation.reward or {}
    return named | {f"Reward, {_name(name)}": estimate(value) for name, value in rewards.items()}


def _candidates(evaluation: Evaluation) -> dict[str, str]:
    """Questions with several candidates."""
    named: dict[str, str] = {}
    if evaluation.best_of is not None:
        named |= {
            f"Best of candidates, {name}": estimate(one, percent=True)
            for name, one in evaluation.best_of.sections.items()
        }
        named["Best of candidates, all sections alike"] = estimate(evaluation.best_of.overall, percent=True)
    for when, one in evaluation.answers.items():
        named[f"Answers right, {when}"] = estimate(one.accuracy, percent=True)
        if one.calibration is not None:
            named[f"Calibration error of answers, {when}"] = _calibration(one.calibration)
    return named


def _calibration(found: Calibration) -> str:
    """Never the bare error, which is above 0 by chance alone."""
    if found.error is None or found.null_band is None:
        return f"{number(found.ece)} ({NO_INTERVAL}; above 0 by chance alone)"
    low, high = (number(end) for end in found.null_band)
    return f"{estimate(found.error)}; seen {number(found.ece)}, by chance alone {low} to {high}"


def _diversity(evaluation: Evaluation) -> dict[str, str]:
    rows = {}
    for name, found in evaluation.diversity.items():
        rows[f"Entropy, {_name(name)}, nats per token"] = estimate(found.entropy_per_token)
        rows[f"Distinct of {found.num_samples} samples of a prompt, {_name(name)}"] = estimate(
            found.distinct_per_prompt
        )
    return rows


def _name(key: str) -> str:
    return key.replace("_", " ")


def _cell(column: str, value: Any) -> str:
    is_share = "accuracy" in column and value is not None
    return estimate(Estimate.from_dict(value), percent=True) if is_share else plain(value)


def _value(measured: Estimate | None) -> float | None:
    return None if measured is None else measured.value
