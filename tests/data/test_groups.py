from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from exptilt.data.groups import Completion, Group, digest_of, scores_of
from exptilt.labels import Desirable, Preferred, Ranked


def part(*ids, **known):
    return Completion(np.array(ids, np.int32), np.ones(len(ids), bool), **known)


ROW = Group(id="a:1", prompt=np.array([1, 2], np.int32), completions=(part(3, 4), part(5)), label=Preferred(0.75, 2.0))


def test_a_digest_knows_everything_but_the_id_and_the_section():
    """Each of these rows differs from all others in one thing, and so do their digests."""
    first, second = ROW.completions
    labels = [Preferred(0.5, 2.0), Preferred(0.75), Preferred(), Ranked((1, 2)), Ranked((2, 1)), Desirable(True), None]
    behaviour = [np.array(values, np.float32) for values in ([-1, -2], [-1, -3])]
    rows = [
        ROW,
        *(replace(ROW, label=label) for label in [*labels, Desirable(False)]),
        replace(ROW, weight=2.0),
        replace(ROW, completions=(second, first)),
        replace(ROW, completions=(replace(first, score=1.0), second)),
        replace(ROW, completions=(first, replace(second, score=1.0))),
        replace(ROW, completions=(replace(first, version=0), second)),
        replace(ROW, completions=(replace(first, version=1), second)),
        *(replace(ROW, completions=(replace(first, behaviour=values), second)) for values in behaviour),
    ]
    assert len({digest_of([row]) for row in rows}) == len(rows)
    assert digest_of([replace(ROW, id="b:7", section="chat")]) == digest_of([ROW])


def test_pairs_keep_the_digest_they_had_before_labels():
    """By it the pairs of two runs are put side by side, and an unfinished run knows its rows: as of version 0.1."""
    plain = replace(ROW, label=Preferred())
    assert digest_of([replace(plain, weight=1.0)]) == "482153aca80651e1364d7bbe0fc12905"
    assert digest_of([ROW]) == "e3cb33178e7bc19994d06bb49462e758"


def test_a_cut_takes_all_that_is_known_of_a_completion():
    whole = part(3, 4, 5, score=0.5, version=2, behaviour=np.array([-1, -2, -3], np.float32))
    cut = whole.cut(2)
    assert (cut.ids.tolist(), cut.counted.tolist(), cut.behaviour.tolist()) == ([3, 4], [True, True], [-1, -2])
    assert (cut.score, cut.version, whole.cut(3) is whole) == (0.5, 2, True)


@pytest.mark.parametrize(("scores", "expected"), [((0.0, 1.0), (0.0, 1.0)), ((0.0, None), None), ((None, None), None)])
def test_scores_are_those_of_all_completions_or_none(scores, expected):
    parts = tuple(part(1, score=score) for score in scores)
    assert scores_of(replace(ROW, completions=parts)) == expected
