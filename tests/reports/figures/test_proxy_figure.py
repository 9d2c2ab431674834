"""Another reward optimised instead of the true one: its figure, its table, and when it is said to turn down."""

from __future__ import annotations

from typing import Any

import pytest

from exptilt.reports.figures.frontier_figure import colour_keys, frontier_figure
from exptilt.reports.figures.proxy_figure import proxy_figure, proxy_rows
from exptilt.run_folder.frontier_record import Frontier


def proxy(name: str, gold: list[float], width: float = 0.02) -> dict[str, Any]:
    best = max(range(len(gold)), key=gold.__getitem__)

    def at(value: float) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width}

    return {
        "name": name,
        "kl": [0.5 * place for place in range(len(gold))],
        "gold": gold,
        "low": [value - width for value in gold],
        "high": [value + width for value in gold],
        "solid_kl": 1.0,
        "best_kl": 0.5 * best,
        "best": at(gold[best]),
        "end": at(gold[-1]),
    }


def test_a_proxy_turns_down_only_where_peak_and_end_are_apart(frontier: dict[str, Any]) -> None:
    frontier["proxies"] = [
        proxy("implicit reward of IPO beta=0.1", [0.5, 0.7, 0.8, 0.6]),
        proxy("length", [0.5, 0.6, 0.605, 0.6]),
        proxy("rises", [0.5, 0.6, 0.7, 0.8]),
    ]
    found = Frontier.from_dict(frontier)
    rows = proxy_rows(found)
    assert [row.cells[-1] for row in rows] == ["yes, past 1 nats", "not distinguishable", "no"]
    assert rows[0].cells[:3] == ("0.800 [0.780, 0.820]", "1", "0.600 [0.580, 0.620] at 1.50 nats")
    # The implicit reward of a policy has its policy's colour, the others those that are left.
    own = colour_keys(found)["IPO beta=0.1"]
    assert rows[0].colour == f"var(--s{own})"
    assert len({row.colour for row in rows}) == 3
    figure = proxy_figure(found)
    assert figure is not None
    assert "length: highest 0.605 at 1 nats, 0.600 at 1.50 nats." in figure.alt
    assert "IPO beta=0.1" in figure.svg
    assert proxy_figure(found.model_copy(update={"proxies": []})) is None


def test_a_curve_needs_one_length(frontier: dict[str, Any]) -> None:
    frontier["proxies"] = [proxy("a", [0.5, 0.6]) | {"low": [0.5]}]
    with pytest.raises(ValueError, match="kl, gold, low and high must have one length"):
        Frontier.from_dict(frontier)


def test_far_policies_get_a_square_root_scale_and_pooled_samples_are_said(frontier: dict[str, Any]) -> None:
    near = frontier_figure(Frontier.from_dict(frontier))
    frontier["points"][0]["kl"] = {"value": 28.0, "low": 27.0, "high": 29.0}
    frontier["pooled"] = {"policies": ["DPO beta=0.1", "IPO beta=0.1"], "samples_each": 32}
    far = frontier_figure(Frontier.from_dict(frontier))
    assert near is not None
    assert far is not None
    assert "square-root scale" in far.note
    assert "square-root scale" not in near.note
    assert "reference samples and 32 samples each of DPO beta=0.1 and IPO beta=0.1, reweighted" in far.note
    assert "from reference samples;" in near.note


def test_a_method_has_one_colour_in_figure_and_table(frontier: dict[str, Any]) -> None:
    """The reference, drawn as a point of its own, takes none of the methods' colours."""
    many = [frontier["points"][0] | {"name": f"DPO seed={seed}", "method": "dpo"} for seed in range(9)]
    frontier["points"] = [{**frontier["points"][0], "name": "reference", "method": "reference"}, *many]
    assert colour_keys(Frontier.from_dict(frontier)) == {"dpo": 0}
