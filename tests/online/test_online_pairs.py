"""Rows of the loss, made of a rollout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from exptilt.data.groups import Completion, Group
from exptilt.labels import Preferred
from exptilt.online.online_pairs import pairs_of, scored_groups
from exptilt.rewards.preferred_pairs import PairRule


def group(*scores):
    completions = [
        Completion(np.array([at], np.int32), np.ones(1, bool), score=score) for at, score in enumerate(scores)
    ]
    return Group(id="a", prompt=np.array([1], np.int32), completions=tuple(completions))


def test_unscored_completions_are_left_out_and_prompts_with_one_left():
    left_out = Counter()
    groups = {3: group(1.0, None, 2.0), 5: group(None, 2.0)}
    kept = scored_groups(groups, 2, left_out)
    assert [[one.score for one in each.completions] for each in kept] == [[1.0, 2.0]]
    assert left_out == {"prompts with fewer than two scored completions": 1}
    assert [len(each.completions) for each in scored_groups(groups, 0, Counter())] == [3, 2]


def test_pairs_have_the_preferred_completion_first():
    left_out = Counter()
    pairs = pairs_of({0: group(1.0, 3.0, None, 2.0)}, PairRule(which="all"), (0, 0), left_out)
    assert [[part.score for part in pair.completions] for pair in pairs] == [[3.0, 1.0], [2.0, 1.0], [3.0, 2.0]]
    assert [pair.label for pair in pairs] == [Preferred(1.0, 2.0), Preferred(1.0, 1.0), Preferred(1.0, 1.0)]
    assert [pair.id for pair in pairs] == ["a 2>1", "a 4>1", "a 2>4"]


def test_ties_and_equal_completions_are_counted():
    left_out = Counter()
    assert pairs_of({0: group(1.0, 1.0)}, PairRule(), (0, 0), left_out) == []
    same = group(1.0, 2.0)
    same = replace(same, completions=(same.completions[0], replace(same.completions[1], ids=same.completions[0].ids)))
    assert pairs_of({0: same}, PairRule(), (0, 0), left_out) == []
    assert left_out == {"ties": 1, "the same completion on both sides": 1}


def test_a_coin_belongs_to_the_rollout_and_the_place_not_to_the_minibatch():
    rule = PairRule(which="neighbours", label="coin", scale=1.0)
    groups = {place: group(0.0, 0.5) for place in range(200)}
    whole = [pair.completions[0].score for pair in pairs_of(groups, rule, (0, 7), Counter())]
    parts = [pairs_of({place: groups[place]}, rule, (0, 7), Counter())[0].completions[0].score for place in groups]
    assert whole == parts
    assert abs(np.mean(np.array(whole) == 0.5) - 1 / (1 + np.exp(-0.5))) < 0.1
    assert whole != [pair.completions[0].score for pair in pairs_of(groups, rule, (0, 8), Counter())]
