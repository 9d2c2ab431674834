import math

import numpy as np
import pytest
from scipy.special import log_softmax

from exptilt.data.groups import Completion, Group
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.pairs.choices import Question, answer_calibration, best_of, questions_of
from exptilt.labels import Preferred

HOW = Resampling(num_resamples=200)


def question(section, right, wrong):
    return Question(section, np.array(right, dtype=float), np.array(wrong, dtype=float))


def test_the_best_of_four_is_credited_by_the_share_at_the_top():
    found = best_of(
        [question("Math", [3], [1, 2, 0]), question("Math", [3], [3, 3, 0]), question("Math", [0], [1, 2, 3])]
    )
    assert found.sections["Math"].value == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found.overall.value == pytest.approx(4 / 9)
    assert found.num_questions == 3


def test_ties_by_hand():
    # Pair 1: spread 1, gap 2, gap of its partner 0.5. Pair 2: the tied one is wrong, spread 2, gap -1; partner right, 4.
    rows = [
        question("Ties/tied:1", [5, 4], [2, 1]),
        question("Ties/ref:1", [1.5], [1, 0]),
        question("Ties/tied:2", [5, 3], [4, 1]),
        question("Ties/ref:2", [5], [1, 0]),
    ]
    sizes = (math.tanh(0.5 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2
    expected = 0.3 * 0.5 + 0.3 * 1.0 + 0.2 * 0.5 + 0.2 * 0.0 + 0.01 * sizes
    found = best_of([*rows, question("Math", [1], [0, 0, 0])], HOW)
    assert found.sections["Ties"].value == pytest.approx(expected)
    assert found.overall.value == pytest.approx((expected + 1) / 2)


def test_rows_are_put_together_again_from_their_pairs():
    def pair(name, p=1.0):
        side = Completion(np.array([1], np.int32), np.array([True]))
        return Group(id=name, prompt=np.array([0]), completions=(side, side), label=Preferred(p), section="Focus")

    groups = [pair("a:1 1>2"), pair("a:1 1>3"), pair("a:1 1>4"), pair("a:1 2=3", 0.5), pair("a:2"), pair("a:3 1>2")]
    [found] = questions_of(groups, [2, 2, 2, 1, 9, 9], [1, 0, 3, 0, 8, 8])
    assert (found.section, found.right.tolist(), found.wrong.tolist()) == ("Focus", [2.0], [1.0, 0.0, 3.0])
    assert found.credit == 0
    ranked = [pair("b:1 1>2"), pair("b:1 1>3"), pair("b:1 2>3")]
    assert questions_of(ranked, [3, 3, 2], [2, 1, 1]) == []


def test_a_row_of_which_not_all_pairs_were_made_is_no_question():
    """Of neighbours alone nobody knows that the third and the fourth candidate are wrong: best of four would be best of two."""

    def pair(places: str, p_chosen: float) -> Group:
        return Group(id=f"f:1 {places}", prompt=np.array([1]), completions=(), label=Preferred(p_chosen))

    adjacent = [pair("1>2", 1.0), pair("2=3", 0.5), pair("3=4", 0.5)]
    assert questions_of(adjacent, [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == []
    decided = [pair("1>2", 1.0), pair("1>3", 1.0), pair("1>4", 1.0)]
    (question,) = questions_of(decided, [0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert (question.right.tolist(), question.wrong.tolist(), question.credit) == ([0.0], [1.0, 2.0, 3.0], 0.0)


def test_a_model_that_is_too_sure_of_its_answers_is_told_so():
    rng, rows, sharper = np.random.default_rng(0), [], []
    for _ in range(400):
        logits = log_softmax(rng.normal(size=4) * 1.5)
        answer = rng.choice(4, p=np.exp(logits))
        rest = np.delete(np.arange(4), answer)
        rows.append(question("MC", [logits[answer]], logits[rest]))
        sharper.append(question("MC", [3 * logits[answer]], 3 * logits[rest]))
    honest, sure = (answer_calibration(each, HOW) for each in (rows, sharper))
    assert honest.calibration.error.low == 0
    assert sure.calibration.error.low > 0.1
    assert honest.accuracy.value == sure.accuracy.value
