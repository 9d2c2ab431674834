"""The figure of proxies: the effect on the true reward of optimising another reward, before anybody trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from exptilt.reports.figures.curves import spread
from exptilt.reports.figures.frontier_figure import colour_keys
from exptilt.reports.figures.svg import INK, MUTED, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import estimate, number
from exptilt.reports.tone import compare
from exptilt.run_folder.frontier_record import Frontier, Proxy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = len(SERIES)


@dataclass(frozen=True)
class ProxyRow:
    """The row of one proxy in the table."""

    name: str
    colour: str
    cells: tuple[str, ...]


def proxy_figure(frontier: Frontier) -> Figure | None:
    """Draw the true reward along each proxy's own optimum, beside the true optimum; None without proxies."""
    if not frontier.proxies:
        return None
    shown = frontier.proxies[:_SHOWN]
    sentences = [
        f"{proxy.name}: highest {number(proxy.best.value)} at {number(proxy.best_kl)} nats, "
        f"{number(proxy.end.value)} at {number(proxy.kl[-1])} nats."
        for proxy in shown
    ]
    alt = f"{frontier.reward_name} if another reward were optimised, over KL. {' '.join(sentences)}"
    paint = partial(_paint, frontier=frontier, proxies=shown)
    left_out = len(frontier.proxies) - len(shown)
    return Figure(
        name="proxies",
        title=f"If another reward were optimised, what would {frontier.reward_name} do?",
        alt=alt,
        svg=draw("proxies", alt, paint, (9.6, 4.4)),
        narrow=draw("proxies-narrow", alt, paint, (4.8, 4.2)),
        note="Predicted from samples of the reference, without training: each line is the best any policy could do for "
        "that reward, judged by the true one. A line that turns down is over-optimised past its circle. Grey: the true "
        "optimum. Dashed: carried by few samples." + (f" {left_out} more are in the table." if left_out else ""),
    )


def proxy_rows(frontier: Frontier | None) -> list[ProxyRow]:
    """The rows of all proxies: the peak and the end of the true reward along each."""
    if frontier is None:
        return []
    colours = proxy_colours(frontier, [proxy.name for proxy in frontier.proxies])
    return [
        ProxyRow(
            name=proxy.name,
            colour=f"var(--s{colour_index})",
            cells=(
                estimate(proxy.best),
                number(proxy.best_kl),
                f"{estimate(proxy.end)} at {number(proxy.kl[-1])} nats",
                _turns_down(proxy),
            ),
        )
        for proxy, colour_index in zip(frontier.proxies, colours, strict=True)
    ]


def _turns_down(proxy: Proxy) -> str:
    """Tell whether the true reward falls after its peak: the intervals of peak and end must be apart."""
    if proxy.best_kl >= proxy.kl[-1]:
        return "no"
    if proxy.best.low is not None and compare(proxy.end, proxy.best.low) == "below":
        return f"yes, past {number(proxy.best_kl)} nats"
    return "not distinguishable"


def proxy_colours(frontier: Frontier, names: Sequence[str]) -> list[int]:
    """The colour index of each proxy: that of the policy whose implicit reward it is, else the next free one."""
    keys = colour_keys(frontier)
    named = [next((index for key, index in keys.items() if name.endswith(f" {key}")), None) for name in names]
    free = iter([index for index in range(len(SERIES)) if index not in named] * (1 + len(named)))
    return [next(free, 0) if index is None else index for index in named]


def _paint(axes: Axes, *, frontier: Frontier, proxies: Sequence[Proxy]) -> None:
    end = max(proxy.kl[-1] for proxy in proxies)
    if frontier.optimum is not None:
        inside = [at for at, kl in enumerate(frontier.optimum.kl) if kl <= 1.02 * end]
        kl, reward = ([column[at] for at in inside] for column in (frontier.optimum.kl, frontier.optimum.reward))
        axes.plot(kl, reward, color=MUTED, linewidth=1.4, zorder=2)
    for proxy, index in zip(proxies, proxy_colours(frontier, [proxy.name for proxy in proxies]), strict=True):
        colour = SERIES[index]
        solid = sum(kl <= proxy.solid_kl for kl in proxy.kl)
        if proxy.low is not None and proxy.high is not None:
            axes.fill_between(proxy.kl, proxy.low, proxy.high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(proxy.kl[:solid], proxy.gold[:solid], color=colour, zorder=4)
        rest = slice(max(0, solid - 1), None)
        axes.plot(proxy.kl[rest], proxy.gold[rest], color=colour, linewidth=1.4, linestyle=(0, (5, 4)), zorder=3)
        axes.plot(
            [proxy.best_kl], [proxy.best.value or 0.0], marker="o", color=colour, markersize=7,
            markerfacecolor=SURFACE, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
    start = frontier.reference_reward
    if start is not None and start.value is not None:
        axes.plot(
            [0], [start.value], marker="o", color=INK, markersize=7, markeredgecolor=SURFACE, zorder=6, clip_on=False
        )
    axes.set(xlabel="KL(policy ‖ reference), nats per reply", ylabel=frontier.reward_name)
    axes.set_xlim(left=0.0)
    _label(axes, frontier, proxies, end)


def _label(axes: Axes, frontier: Frontier, proxies: Sequence[Proxy], end: float) -> None:
    """Write names at the ends of the lines."""
    ends = [
        (proxy.gold[-1], proxy.name.removeprefix("implicit reward of "), SERIES[index])
        for proxy, index in zip(proxies, proxy_colours(frontier, [proxy.name for proxy in proxies]), strict=True)
    ]
    best = frontier.optimum
    if best is not None:
        ends.append((float(np.interp(end, best.kl, best.reward)), "optimum", MUTED))
    ends.sort()
    low, high = axes.get_ylim()
    for height, (_, name, colour) in zip(
        spread([value for value, _, _ in ends], 0.075 * (high - low)), ends, strict=True
    ):
        label = axes.annotate(
            name, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=10.5
        )
        label.set_annotation_clip(False)
