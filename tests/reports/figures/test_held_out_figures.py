from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from exptilt.reports.displacement_section import DISPLACEMENT
from exptilt.reports.figures.curves import LEARNING, curve
from exptilt.reports.figures.frontier_figure import colour_keys, frontier_figure
from exptilt.reports.figures.held_out_figures import calibration, lengths, margin_histogram
from exptilt.reports.figures.svg import SERIES
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.frontier_record import Frontier, with_reference_point
from exptilt.run_folder.run_contents import read_run

MakeRun = Callable[..., Path]
LOSS = LEARNING[0]


def test_the_words_of_a_curve_are_its_numbers(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text('{"step": 5, "train/loss": 0.69}\n{"step": 20, "train/loss": 0.5}\n')
    figure = curve(LOSS, [read_run(folder)], SERIES[:1])
    assert figure is not None
    assert figure.alt == "Loss over training steps. training: from 0.690 at step 5 to 0.500 at step 20."
    assert curve(DISPLACEMENT, [read_run(folder)], SERIES[:1]) is None


def test_one_run_draws_the_average_of_both_sides(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "train/displacement/chosen": 0, "train/displacement/rejected": 0}\n'
        '{"step": 9, "train/displacement/chosen": -2, "train/displacement/rejected": -5}\n'
    )
    figure = curve(DISPLACEMENT, [read_run(folder)], SERIES[:1], large=True)
    assert figure is not None
    assert "average of both: from 0 at step 0 to \u22123.50 at step 9." in figure.alt
    assert figure.narrow is not None


def test_figures_of_an_evaluation_need_its_numbers(make_run: MakeRun) -> None:
    bare = read_run(make_run("bare", evaluation={"margins": {"edges": [0, 1], "counts": [0]}}))
    assert margin_histogram([bare], SERIES[:1]) is None
    assert calibration([bare], SERIES[:1]) is None
    assert lengths([("policy", Estimate(), SERIES[0])]) is None


def test_the_optimum_is_solid_where_trusted_and_dashed_elsewhere(frontier: dict[str, object]) -> None:
    del frontier["reference_reward"]
    figure = frontier_figure(Frontier.from_dict(frontier))
    assert figure is not None
    strokes = re.findall(r'style="fill: none; (stroke-dasharray[^"]*)?stroke: var\(--ink\)[^"]*"', figure.svg)
    assert len(strokes) == 2
    assert [bool(dashes) for dashes in strokes] == [False, True]
    assert "DPO beta=0.5" in figure.alt


def test_the_reference_stands_where_the_optimum_starts(frontier: dict[str, object]) -> None:
    optimum = frontier["optimum"]
    assert isinstance(optimum, dict)
    frontier["optimum"] = {name: column[1:] for name, column in optimum.items()}
    made = with_reference_point(Frontier.from_dict(frontier))
    assert made.optimum is not None
    assert (made.optimum.kl[:2], made.optimum.reward[0]) == ((0.0, 0.05), 0.5)
    assert (made.points[0].name, made.points[0].kl.value, made.points[0].reward.value) == ("reference", 0.0, 0.5)
    assert with_reference_point(made) is made


def test_many_policies_are_coloured_by_method(frontier: dict[str, object]) -> None:
    points = frontier["points"]
    assert isinstance(points, list)
    frontier["points"] = [point | {"name": f"{point['name']} seed {seed}"} for point in points for seed in range(3)]
    made = Frontier.from_dict(frontier)
    assert colour_keys(made) == {"dpo": 0, "ipo": 1, "preferred_ft": 2}
    assert frontier_figure(made) is not None
