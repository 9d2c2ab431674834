"""The conclusion on a reward model claims what the intervals allow, and never speaks of a policy."""

from __future__ import annotations

from exptilt.reports.words.reward_words import about_calibration, about_length, about_optimising, constant
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Calibration, Evaluation, LengthSlope, Scores
from exptilt.run_folder.frontier_record import Frontier, Proxy


def around(value, half):
    return Estimate(value=value, low=value - half, high=value + half, level=0.95, n=100)


def measured(accuracy, longest, spread=3.0):
    return Evaluation(
        accuracy={"reward_model": {"score": accuracy}},
        longest_wins=longest,
        scores=Scores(edges=(0.0, 1.0), chosen=(5,), rejected=(5,), spread=spread),
        reward_on_length={"data": LengthSlope(slope=around(0.1, 0.01), r_squared=around(0.4, 0.1))},
    )


def test_length_is_beaten_only_where_the_interval_says_so():
    cases = {(0.8, 0.6): "Yes", (0.8, 0.79): "Not distinguishable", (0.8, 0.1): "No, length ranks better"}
    for (accuracy, longest), answer in cases.items():
        found = about_length(measured(around(accuracy, 0.03), around(longest, 0.03)))
        assert found.answer == answer
    assert found.detail == (
        "Always taking the shorter completion gets 90.0 %. Length explains 40.0 % [30.0, 50.0] of its scores."
    )


def test_calibration_is_never_called_good():
    error = Calibration(ece=0.1, error=around(0.06, 0.02), null_band=(0.01, 0.05))
    assert about_calibration(Evaluation(calibration=error)).answer == "No"
    fine = error.model_copy(update={"error": around(0.02, 0.02)})
    assert about_calibration(Evaluation(calibration=fine)).answer == "Not distinguishable"
    assert about_calibration(Evaluation()).tone == "none"


def test_constant_scores_are_told_before_any_accuracy():
    assert constant(measured(around(0.5, 0.1), around(0.5, 0.1), spread=0.0)).answer == "No, it is constant"
    assert constant(measured(around(0.5, 0.1), around(0.5, 0.1))) is None
    assert constant(Evaluation()) is None


def test_the_turn_of_the_true_reward_is_read_from_a_study():
    def proxy(end):
        return Frontier(
            proxies=(
                Proxy(
                    name="rm",
                    kl=(0.0, 2.0),
                    gold=(0.1, 0.2),
                    solid_kl=1.0,
                    best_kl=1.0,
                    best=around(0.5, 0.05),
                    end=end,
                ),
            )
        )

    assert about_optimising(proxy(around(0.3, 0.05))).answer == "It turns down"
    assert about_optimising(proxy(around(0.48, 0.05))).answer == "No turn seen"
    assert "measure.proxy" in about_optimising(None).detail
