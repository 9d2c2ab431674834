"""The figure of best-of-n: what choosing the best of n samples by some reward does to the true one, for all n."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from exptilt.reports.figures.curves import spread
from exptilt.reports.figures.proxy_figure import ProxyRow, proxy_colours
from exptilt.reports.figures.svg import INK, MUTED, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import estimate, number
from exptilt.reports.tone import compare
from exptilt.run_folder.frontier_record import BestOfNByReward, Frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def best_of_n_figure(frontier: Frontier) -> Figure | None:
    """Draw the true reward of the best of n by each reward, and the reward that chooses; None without such curves."""
    if not frontier.best_of_n_by:
        return None
    shown = _shown(frontier)
    sentences = [
        f"Chosen by {one.name}: highest {number(one.best.value)} at n = {one.best_n}, "
        f"{number(one.end.value)} at n = {len(one.gold)}."
        for one in shown
    ]
    alt = f"{frontier.reward_name} of the best of n samples of the reference, over n. {' '.join(sentences)}"
    paint = partial(_paint, frontier=frontier, lines=shown)
    left_out = len(frontier.best_of_n_by) - len(shown)
    return Figure(
        name="best-of-n",
        title=f"If the best of n samples is taken, what is its {frontier.reward_name}?",
        alt=alt,
        svg=draw("best-of-n", alt, paint, (9.6, 4.4)),
        narrow=draw("best-of-n-narrow", alt, paint, (4.8, 4.2)),
        note="No training: from one pool of samples of the reference, for every n. Grey: chosen by the true reward. Coloured: "
        "chosen by another reward and judged by the true one, shaded by its interval over prompts; dashed: the reward "
        "that chooses, in its own standard deviations. Where the dashed line rises and the solid one falls, it is "
        "over-optimised." + (f" {left_out} more are in the table." if left_out else ""),
    )


def best_of_n_rows(frontier: Frontier | None) -> list[ProxyRow]:
    """The rows of all rewards that choose: where the true reward is highest, at which KL, where it ends, whether it fell."""
    if frontier is None:
        return []
    return [
        ProxyRow(
            name=one.name,
            colour=colour.replace(INK, "var(--ink)") if one.is_true else f"var(--s{SERIES.index(colour)})",
            cells=(
                estimate(one.best),
                str(one.best_n),
                f"{number(one.kl[one.best_n - 1])}, at most {number(one.kl_bound[one.best_n - 1])}",
                f"{estimate(one.end)} at n = {len(one.gold)}",
                _fell(one),
            ),
        )
        for one, colour in zip(frontier.best_of_n_by, _colours(frontier, frontier.best_of_n_by), strict=True)
    ]


def _fell(one: BestOfNByReward) -> str:
    """Whether the true reward falls again with n, measured on other prompts than those that say where it is highest."""
    if one.is_true or one.best_n == len(one.gold):
        return "no"
    side = "unknown" if one.fall is None else compare(one.fall, 0.0)
    return f"yes, past n = {one.best_n}" if side == "below" else "not distinguishable"


def _shown(frontier: Frontier) -> list[BestOfNByReward]:
    """The true reward, and as many others as there are colours."""
    others = [one for one in frontier.best_of_n_by if not one.is_true]
    return [one for one in frontier.best_of_n_by if one.is_true] + others[: len(SERIES)]


def _colours(frontier: Frontier, lines: Sequence[BestOfNByReward]) -> list[str]:
    """Ink for the true reward, and for the others the colours they have in the figure of proxies."""
    others = iter(proxy_colours(frontier, [one.name for one in lines if not one.is_true]))
    return [INK if one.is_true else SERIES[next(others)] for one in lines]


def _paint(axes: Axes, *, frontier: Frontier, lines: Sequence[BestOfNByReward]) -> None:
    for one, colour in zip(lines, _colours(frontier, lines), strict=True):
        n = range(1, len(one.gold) + 1)
        if one.is_true:
            axes.plot(n, one.gold, color=MUTED, linewidth=1.4, zorder=2)
            continue
        if one.low is not None and one.high is not None:
            axes.fill_between(n, one.low, one.high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(n, one.gold, color=colour, zorder=4)
        axes.plot(n, _in_true_units(one, lines), color=colour, linewidth=1.2, linestyle=(0, (2, 2)), zorder=3)
        axes.plot(
            [one.best_n], [one.best.value or 0.0], marker="o", color=colour, markersize=7, markerfacecolor=SURFACE,
            markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
    largest = max(len(one.gold) for one in lines)
    ticks = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set(xlabel="n, samples of which the best is taken", ylabel=frontier.reward_name)
    _label(axes, frontier, lines)


def _in_true_units(one: BestOfNByReward, lines: Sequence[BestOfNByReward]) -> list[float]:
    """The reward that chooses, in its standard deviations, on the axis of the true one: both begin at the same point."""
    true = next((line for line in lines if line.is_true), None)
    unit = (1.0 if true is None else true.chosen_by_sd) / (one.chosen_by_sd or 1.0)
    return [one.gold[0] + (value - one.chosen_by[0]) * unit for value in one.chosen_by]


def _label(axes: Axes, frontier: Frontier, lines: Sequence[BestOfNByReward]) -> None:
    """Write names at the ends of the solid lines."""
    ends = sorted(
        (one.gold[-1], one.name.removeprefix("implicit reward of "), MUTED if one.is_true else colour)
        for one, colour in zip(lines, _colours(frontier, lines), strict=True)
    )
    low, high = axes.get_ylim()
    for height, (_, name, colour) in zip(
        spread([value for value, _, _ in ends], 0.075 * (high - low)), ends, strict=True
    ):
        label = axes.annotate(
            name, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=10.5
        )
        label.set_annotation_clip(False)
