import numpy as np
import pytest

from exptilt.data.batching import Batches
from exptilt.data.groups import Completion, Group
from exptilt.planning.planned_rows import PlannedRows
from exptilt.planning.planned_steps import Steps


def group(name, tokens):
    """Of a prompt of 4 tokens and one completion."""
    side = Completion(np.arange(tokens - 4, dtype=np.int32), np.ones(tokens - 4, np.bool_))
    return Group(id=name, prompt=np.arange(4, dtype=np.int32), completions=(side,))


ROWS = [group("a", 10), group("b", 20), group("c", 30), group("d", 6)]


def test_a_step_is_the_mean_and_memory_the_largest():
    steps = Steps([ROWS[:2], ROWS[2:]], more=1.0)
    assert (steps.load.groups, steps.largest, steps.longest) == (2, 36, 30)
    assert steps.load.tokens == (10 + 20 + 30 + 6 - 4) / 2  # a completion's last token is not fed
    assert steps.micro_batches(100) == 1
    assert steps.micro_batches(30) == 1.5


def test_a_step_with_more_rows_than_the_sample_is_so_many_times_larger():
    steps = Steps([ROWS], more=2.5)
    assert (steps.load.groups, steps.largest, steps.longest) == (10, 165, 30)


def test_rehearsed_micro_batches_go_round_the_rows_and_are_filled():
    found = [[one.id for one in groups] for groups in Steps([ROWS[:2], ROWS[2:]], more=1.0).samples(36)]
    assert found == [["a", "b", "d"], ["d", "a", "b"], ["c", "d"]]
    assert Steps([ROWS], more=1.0).samples(5) == [[ROWS[3]]] * 3  # the shortest, where none is so short
    everything = Steps([ROWS], more=1.0).samples(1000)
    assert [sorted(one.id for one in groups) for groups in everything] == [["a", "b", "c", "d"]] * 3


def test_a_rehearsal_takes_the_runs_own_steps_where_three_take_no_longer_than_they_may():
    steps = Steps([ROWS[:1], ROWS[1:3], ROWS[3:], ROWS[:1]], more=1.0)  # of 10, 50, 6 and 10 tokens

    def named(most):
        return [[[one.id for one in groups] for groups in step] for step in steps.rehearsed(40, most, 10)]

    assert named(66) == [[["a"]], [["c"], ["b"]], [["d"]]]
    assert named(75) == named(66)
    assert named(76) == [*named(66), [["a"]]]
    samples = [[[one.id for one in groups]] for groups in steps.samples(10)]
    assert named(65) == samples
    short = Steps([ROWS[:1], ROWS[1:2]], more=1.0)  # a run of two steps goes round them
    assert [step[0][0].id for step in short.rehearsed(40, 30, 10)] == ["a", "b", "a"]
    assert len(short.rehearsed(40, 29, 10)[0]) == 1
    assert [len(step) for step in Steps([ROWS], more=2.5).rehearsed(40, 1000, 10)] == [1, 1, 1]


def test_a_runs_steps_are_its_own(make_recipe):
    recipe = make_recipe("batch.size=3", "train.max_steps=2", "seed=5")
    rows = PlannedRows(train=ROWS, test=[], num_train=4, num_test=0)
    batches = Batches(ROWS, recipe.batch, seed=5)
    found = Steps.of(recipe, rows)
    assert [[one.id for one in step] for step in found.groups] == [
        [one.id for one in batches.groups(n)] for n in (0, 1)
    ]
    assert found.more == 1
    large = make_recipe("batch.size=8")
    assert Steps.of(large, PlannedRows(train=ROWS, test=[], num_train=100, num_test=0)).more == pytest.approx(2)
