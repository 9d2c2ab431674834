from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exptilt.reports.displacement_section import DISPLACEMENT, displacement, is_this_normal
from exptilt.reports.figures.curves import curve
from exptilt.reports.figures.svg import SERIES
from exptilt.reports.numbers import MINUS
from exptilt.run_folder.run_contents import read_run


@pytest.mark.parametrize(
    ("chosen", "rejected", "answer", "tone"),
    [
        (-4.0, -9.0, "Yes, this is normal.", "good"),
        (-9.0, -12.0, "Common, but worth watching.", "unsure"),
        (1.0, -2.0, "Here they did not fall.", "good"),
        (-5.0, -1.0, "No: the wrong side gained.", "bad"),
        (2.0, 3.0, "No: the wrong side gained.", "bad"),
        (-0.01, -0.03, "Nothing moved yet.", "unsure"),
    ],
)
def test_the_answer_follows_the_numbers(
    make_run: Callable[..., Path], chosen: float, rejected: float, answer: str, tone: str
) -> None:
    folder = make_run(evaluation={"displacement": {"chosen": chosen, "rejected": rejected}})
    found = is_this_normal(read_run(folder))
    assert found is not None
    assert (found.answer, found.tone) == (answer, tone)


def test_the_sentences_carry_the_derived_numbers(make_run: Callable[..., Path]) -> None:
    folder = make_run(evaluation={"displacement": {"chosen": -4.0, "rejected": -9.0}})
    (folder / "metrics.jsonl").write_text('{"step": 1, "eval/lengths/chosen": 32.0}\n')
    found = is_this_normal(read_run(folder))
    assert found is not None
    # difference 5, lost per nat gained 4/5, average -6.5, and 1 - exp(-4/32) = 0.1175 per token
    for piece in (
        "\u22124 (no interval)",
        "the difference, 5 nats",
        "lost 0.800 nats",
        "average of both sides is \u22126.50 nats",
        "11.8 %",
    ):
        assert piece in found.detail


def test_held_out_values_go_before_training_ones(make_run: Callable[..., Path]) -> None:
    folder = make_run(without=("evaluation.json",))
    lines = [
        {"step": k, "train/displacement/chosen": -1.0 * k, "train/displacement/rejected": -2.0 * k} for k in range(1, 8)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    sides = displacement(read_run(folder))
    assert sides is not None
    assert [side.value for side in sides] == [-5.0, -10.0]  # mean of the last five
    (folder / "metrics.jsonl").write_text(
        text + '{"step": 7, "eval/displacement/chosen": -3, "eval/displacement/rejected": -4}\n'
    )
    sides = displacement(read_run(folder))
    assert sides is not None
    assert [side.value for side in sides] == [-3.0, -4.0]


def test_a_run_without_a_reference_has_no_answer(make_run: Callable[..., Path]) -> None:
    folder = make_run(without=("evaluation.json",))
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0, "train/logps": -50.0}\n')
    assert is_this_normal(read_run(folder)) is None


def test_the_measured_forced_part_is_told_and_drawn(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    evaluation = json.loads((folder / "evaluation.json").read_text())
    parts = {"chosen": -2.0, "rejected": -5.0, "mean": -3.5, "forced": -3.0, "remainder": -0.5}
    evaluation["displacement"] = {
        name: {"value": value, "low": value - 1, "high": value + 1} for name, value in parts.items()
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    run = read_run(folder)
    answer = is_this_normal(run)
    assert answer is not None
    assert f"forced part is {MINUS}3.0 [{MINUS}4.0, {MINUS}2.0] nats" in answer.detail
    figure = curve(DISPLACEMENT, [run], [SERIES[0]])
    assert figure is not None
    assert f"forced: from {MINUS}3" in figure.alt
    assert figure.note.startswith(f"Forced: {MINUS}KL(reference ‖ policy) at the end")
