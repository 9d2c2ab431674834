from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.data.conversions import convert, preference_to_ranking, ranking_to_preferences
from exptilt.data.records import Demonstration, Preference, Ranking, Rating
from exptilt.errors import DataError

PAIR = Preference(id="f:1", prompt="Q", chosen="good", rejected="bad", weight=2.0)
RANKED = Ranking(id="f:1", prompt="Q", completions=("x", "y", "z"), ranks=(2, 1, 2), scores=(1.0, 4.0, 1.0))


def test_pairs_of_a_ranking_keep_ties_and_score_differences():
    pairs = ranking_to_preferences(RANKED)
    assert [(p.chosen, p.rejected, p.p_chosen, p.margin) for p in pairs] == [
        ("y", "x", 1.0, 3.0),
        ("y", "z", 1.0, 3.0),
        ("x", "z", 0.5, 0.0),
    ]
    assert [p.id for p in pairs] == ["f:1 2>1", "f:1 2>3", "f:1 1=3"]
    assert [(p.chosen, p.rejected) for p in ranking_to_preferences(RANKED, "best_worst")] == [("y", "z")]


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6))
def test_all_pairs_determine_the_order(ranks):
    ranking = Ranking(id="f:1", prompt="Q", completions=tuple(map(str, range(len(ranks)))), ranks=tuple(ranks))
    pairs = ranking_to_preferences(ranking)
    assert len(pairs) == len(ranks) * (len(ranks) - 1) // 2
    for pair in pairs:
        better, worse = ranks[int(pair.chosen)], ranks[int(pair.rejected)]
        assert pair.p_chosen == (0.5 if better == worse else 1.0)
        assert better <= worse
    assert len(ranking_to_preferences(ranking, "adjacent")) == len(ranks) - 1


def test_a_pair_as_one_as_two_and_as_a_ranking():
    assert convert(PAIR, "pair") == (PAIR,)
    assert convert(PAIR, "completion") == (Demonstration(id="f:1", prompt="Q", completion="good", weight=2.0),)
    assert convert(PAIR, "unpaired") == (
        Rating(id="f:1 chosen", prompt="Q", completion="good", desirable=True, weight=2.0),
        Rating(id="f:1 rejected", prompt="Q", completion="bad", desirable=False, weight=2.0),
    )
    assert preference_to_ranking(PAIR).ranks == (1, 2)


def test_the_likelier_side_of_a_soft_label_is_the_good_one():
    soft = Preference(id="f:1", prompt="Q", chosen="a", rejected="b", p_chosen=0.2)
    assert convert(soft, "completion")[0].completion == "b"
    assert [rating.desirable for rating in convert(soft, "unpaired")] == [False, True]
    assert preference_to_ranking(soft).ranks == (2, 1)


def test_a_tie_has_no_label():
    tie = Preference(id="f:1", prompt="Q", chosen="a", rejected="b", p_chosen=0.5)
    assert convert(tie, "unpaired") == "unlabelled"
    assert preference_to_ranking(tie).ranks == (1, 1)


def test_ratings_and_demonstrations():
    good = Rating(id="f:1", prompt="Q", completion="a", desirable=True)
    bad = Rating(id="f:2", prompt="Q", completion="b", desirable=False)
    assert convert(good, "unpaired") == (good,)
    assert convert(good, "completion") == (Demonstration(id="f:1", prompt="Q", completion="a"),)
    assert convert(bad, "completion") == "undesirable"
    assert convert(RANKED, "list") == (RANKED,)
    assert convert(RANKED, "completion")[0].completion == "y"


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (Demonstration(id="f:9", prompt="Q", completion="a"), "pair"),
        (Rating(id="f:9", prompt="Q", completion="a", desirable=True), "list"),
        (Ranking(id="f:9", prompt="Q", completions=("a", "b"), ranks=(1, 2)), "unpaired"),
    ],
)
def test_nothing_is_invented(record, kind):
    with pytest.raises(DataError, match=r"f:9: the row has .*, but the objective is trained on"):
        convert(record, kind)


def test_scores_of_a_ranking_stay_with_the_sides_of_its_pairs():
    ranked = Ranking(id="a:1", prompt="Q", completions=("x", "y"), ranks=(2, 1), scores=(1.5, 4.0))
    (pair,) = ranking_to_preferences(ranked)
    assert (pair.chosen, pair.scores, pair.margin) == ("y", (4.0, 1.5), 2.5)
