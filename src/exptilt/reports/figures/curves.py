"""Curves over training steps: loss, accuracy, rewards, and chosen and rejected against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from exptilt.reports.figures.svg import (
    MARKERS,
    MAX_POINTS,
    MUTED,
    PANEL,
    SERIES,
    SURFACE,
    Figure,
    draw,
    running_mean,
    thin,
)
from exptilt.reports.numbers import MINUS, number
from exptilt.run_folder.run_contents import RunContents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = (9.6, 4.4), (4.8, 4.2)
SIDES = ("chosen", "rejected")
FORCED = (
    f"Forced: {MINUS}KL(reference ‖ policy) at the end, measured on samples of the reference. Where the pairs are such "
    "samples, the average of both sides must be there whatever the method."
)
FEW = 30
"""Logged points below which a curve is drawn as it is, without a running mean."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One curve: its name, its values and its style."""

    label: str
    steps: list[float]
    values: list[float]
    colour: str
    held_out: bool = False
    dashed: bool = False
    dotted: bool = False
    is_level: bool = False
    """One value at all steps."""


@dataclass(frozen=True)
class Curve:
    """The content of one panel of curves: metric names without `train/` and `eval/`."""

    name: str
    title: str
    unit: str
    keys: tuple[str, ...]
    level: float | None = None
    """A value worth a line of its own."""
    level_name: str = ""
    with_average: bool = False
    """Whether the average of its lines is drawn for a single run, and the part of it that is forced."""


LEARNING = (
    Curve("loss", "Loss", "loss", ("loss",)),
    Curve("accuracy", "Pairs ranked right", "share of pairs", ("rewards/accuracies", "accuracy"), 0.5, "coin"),
    Curve("rewards", "Implicit rewards", "reward", ("rewards/chosen", "rewards/rejected"), 0.0),
    Curve("margins", "Margin between chosen and rejected", "reward", ("rewards/margins", "margin"), 0.0),
)
LEARNING_OF_SCORES = (
    *LEARNING[:2],
    replace(LEARNING[2], title="Scores", unit="score"),
    replace(LEARNING[3], unit="score"),
)
"""The same of a reward model, whose rewards are its own."""
ROLLOUTS = (
    Curve("rollout-reward", "Reward of own completions", "reward", ("rollout/reward", "reward")),
    Curve("rollout-kl", "KL(policy ‖ reference) of own completions", "nats per reply", ("rollout/kl", "kl")),
    Curve("rollout-entropy", "Entropy", "nats per token", ("rollout/entropy", "entropy")),
    Curve("rollout-length", "Length of own completions", "tokens", ("rollout/length", "sample_length")),
    Curve("rollout-cut", "Completions that were cut", "share", ("rollout/truncated", "truncated")),
    Curve("rollout-distinct", "Distinct completions", "share", ("rollout/distinct", "distinct")),
    Curve("rollout-no-signal", "Prompts whose completions have one reward", "share", ("rollout/no_signal",)),
    Curve("clipped", "Tokens whose gradient was clipped", "share", ("clip_fraction",)),
    Curve("explained", "Variance of returns that the critic explains", "share", ("explained_variance",)),
)
"""Of runs that draw their completions themselves."""
LIKELIHOOD = Curve("logps", "Log-probability of whole replies", "nats", ("logps/chosen", "logps/rejected", "logps"))
HEALTH = (
    Curve("gradient", "Gradient norm", "norm", ("grad_norm",)),
    Curve("rate", "Learning rate", "learning rate", ("lr",)),
    Curve("speed", "Speed", "tokens per second", ("tokens_per_second",)),
)


def curve(spec: Curve, runs: Sequence[RunContents], colours: Sequence[str], *, large: bool = False) -> Figure | None:
    """Draw the panel `spec` for one run (its own colours, labelled lines) or several (one colour per run)."""
    traces = [
        trace for run, colour in zip(runs, colours, strict=True) for trace in _traces(spec, run, colour, len(runs) == 1)
    ]
    if not traces:
        return None
    if spec.with_average and len(runs) == 1:
        traces += _midline(traces) + _forced(runs[0], traces)
    alt = f"{spec.title} over training steps. " + _in_words(traces)
    paint = partial(_paint_curves, spec=spec, traces=traces, labelled=len(runs) == 1)
    narrow = draw(f"{spec.name}-narrow", alt, paint, NARROW) if large else None
    return Figure(
        name=spec.name,
        title=spec.title,
        alt=alt,
        svg=draw(spec.name, alt, paint, WIDE if large else PANEL),
        narrow=narrow,
        note=FORCED if any(trace.is_level for trace in traces) else "",
    )


def _traces(spec: Curve, run: RunContents, colour: str, alone: bool) -> list[Trace]:
    traces, drawn = [], set[str]()
    for key in spec.keys:
        side = key.rsplit("/", 1)[-1]
        second = side == "rejected"
        for split in ("train", "eval"):
            steps, values = run.series(f"{split}/{key}")
            if not values or (side not in SIDES and split in drawn):  # later keys stand in for the first
                continue
            drawn.add(split)
            held_out = split == "eval"
            where = "held out" if held_out else "training"
            label = (
                (f"{side}, {where}" if side in SIDES else where)
                if alone
                else f"{run.name}, {side if side in SIDES else spec.title.lower()}, {where}"
            )
            base_colour = SERIES[1] if second else SERIES[0]
            traces.append(
                Trace(
                    label=label,
                    steps=steps,
                    values=values,
                    colour=base_colour if alone else colour,
                    held_out=held_out,
                    dashed=second and not alone,
                )
            )
    return traces


def _midline(traces: list[Trace]) -> list[Trace]:
    """Half the sum of both sides: the forced part if the pairs were sampled from the reference."""
    for held_out in (True, False):
        sides = [trace for trace in traces if trace.held_out == held_out]
        if len(sides) == len(SIDES) and sides[0].steps == sides[1].steps:
            middle = [(a + b) / 2 for a, b in zip(sides[0].values, sides[1].values, strict=True)]
            return [
                Trace(
                    label="average of both",
                    steps=sides[0].steps,
                    values=middle,
                    colour=MUTED,
                    held_out=held_out,
                    dotted=True,
                )
            ]
    return []


def _forced(run: RunContents, traces: list[Trace]) -> list[Trace]:
    """-KL(reference || policy) measured at the end, as a level beside the average that it forces."""
    forced = run.evaluation.displacement.forced if run.evaluation else None
    if forced is None or forced.value is None:
        return []
    steps = [min(trace.steps[0] for trace in traces), max(trace.steps[-1] for trace in traces)]
    level = [forced.value, forced.value]
    return [Trace(label="forced", steps=steps, values=level, colour=MUTED, held_out=True, dashed=True, is_level=True)]


def _paint_curves(axes: Axes, *, spec: Curve, traces: list[Trace], labelled: bool) -> None:
    limit = max(40, min(MAX_POINTS, 3000 // len(traces)))
    for trace in traces:
        _paint_trace(axes, trace, limit)
    if spec.level is not None:
        axes.axhline(spec.level, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    axes.set(xlabel="step", ylabel=spec.unit)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.locator_params(axis="y", nbins=6)
    ends = _ends(traces) if labelled else []
    if spec.level_name and spec.level is not None:
        ends.append((spec.level_name, spec.level, MUTED))
    _label_ends(axes, ends)


def _paint_trace(axes: Axes, trace: Trace, limit: int) -> None:
    style = ":" if trace.dotted else "--" if trace.dashed else "-"
    if trace.held_out or trace.dotted:
        marker = None if trace.dotted or trace.is_level or len(trace.values) > 2 * FEW else MARKERS[0]
        axes.plot(
            *thin(trace.steps, trace.values, limit),
            style,
            marker=marker,
            color=trace.colour,
            linewidth=1.6,
            markersize=5,
            markerfacecolor=SURFACE,
            zorder=4,
        )
        return
    if len(trace.values) < FEW:
        axes.plot(trace.steps, trace.values, style, color=trace.colour, linewidth=1.4, alpha=0.65)
        return
    smooth = running_mean(trace.values, _width(trace))
    axes.plot(*thin(trace.steps, trace.values, limit), style, color=trace.colour, linewidth=0.9, alpha=0.3)
    axes.plot(*thin(trace.steps, smooth, limit // 3), style, color=trace.colour)


def _ends(traces: list[Trace]) -> list[tuple[str, float, str]]:
    """The label at the end of each line: the side if a panel has two, else training or held out."""
    sided = any(trace.label.split(",")[0] in SIDES for trace in traces)
    named = {(trace.label.split(",")[0] if sided else trace.label): trace for trace in traces}
    return [(name, _drawn_end(trace), trace.colour) for name, trace in named.items()]


def _drawn_end(trace: Trace) -> float:
    few = trace.held_out or len(trace.values) < FEW
    return trace.values[-1] if few else running_mean(trace.values, _width(trace))[-1]


def _width(trace: Trace) -> int:
    return max(3, len(trace.values) // 20)


def _label_ends(axes: Axes, ends: list[tuple[str, float, str]]) -> None:
    """Write names beside the ends of lines; names that would touch are moved apart as little as possible."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    for (name, _, colour), height in zip(
        ordered, spread([end[1] for end in ordered], 0.075 * (high - low)), strict=True
    ):
        label = axes.annotate(
            name, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=10.5
        )
        label.set_annotation_clip(False)


def spread(places: list[float], apart: float) -> list[float]:
    """Move rising positions until neighbours are `apart`; positions that must move together keep their mean.

    Example:
        >>> spread([0.0, 0.0, 9.0], 2.0)
        [-1.0, 1.0, 9.0]
    """
    groups: list[list[float]] = []
    for position in places:
        groups.append([position])
        while len(groups) > 1 and _first(groups[-1], apart) - _last(groups[-2], apart) < apart - 1e-12:
            last = groups.pop()
            groups[-1] += last
    return [_first(group, apart) + at * apart for group in groups for at in range(len(group))]


def _first(group: list[float], apart: float) -> float:
    return sum(group) / len(group) - apart * (len(group) - 1) / 2


def _last(group: list[float], apart: float) -> float:
    return _first(group, apart) + apart * (len(group) - 1)


def _in_words(traces: Sequence[Trace], limit: int = 8) -> str:
    sentences = [
        f"{trace.label}: from {number(trace.values[0])} at step {number(trace.steps[0])} "
        f"to {number(trace.values[-1])} at step {number(trace.steps[-1])}."
        for trace in traces[:limit]
    ]
    return " ".join(sentences) + (f" And {len(traces) - limit} more." if len(traces) > limit else "")
