"""Steps that hold rows of two values: how few rows move, that none is lost, and when it cannot be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.data.batching import Batches
from exptilt.data.groups import Completion, Group
from exptilt.data.mixing import TwoOf
from exptilt.labels import Desirable
from exptilt.settings.data_settings import BatchConfig


def row(number: int, prompt: int = 0, desirable: bool = True, weight: float = 1.0) -> Group:
    part = Completion(np.array([number], np.int32), np.ones(1, bool))
    return Group(
        id=str(number),
        prompt=np.array([prompt], np.int32),
        completions=(part,),
        label=Desirable(desirable),
        weight=weight,
    )


def test_one_exchange_mends_one_step_and_rows_of_weight_zero_do_not_count():
    """Rows 0 to 3 are desirable, 4 to 7 are not, and 4 has weight 0."""
    rows = [row(n, desirable=n < 4, weight=float(n != 4)) for n in range(8)]
    two = TwoOf.of("labels", rows)
    assert two.values.tolist() == [0, 0, 0, 0, -1, 1, 1, 1]
    assert (two.num_rare, two.least_size) == (3, 3)
    order = two.spread(np.array([0, 1, 5, 6, 2, 3, 4, 7]), [0, 3, 5, 8])
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 4, 7]  # every step has both already
    order = two.spread(np.array([0, 1, 2, 5, 6, 4, 3, 7]), [0, 3, 5, 8])
    assert order.tolist() == [0, 1, 5, 2, 6, 4, 3, 7]  # rows 2 and 5 changed places


STEPS = st.lists(st.integers(0, 3), min_size=2, max_size=40)


@given(STEPS, st.integers(2, 7), st.integers(0, 5), st.sampled_from([0.0, 1.0]))
def test_every_step_holds_two_prompts_where_there_are_enough_rows_and_no_row_is_lost(prompts, size, seed, weight):
    """Prompt 3 has the weight, which may be zero; with as many rows of rarer prompts as steps, none is left short."""
    rows = [row(n, prompt, weight=weight if prompt == 3 else 1.0) for n, prompt in enumerate(prompts)]
    two = TwoOf.of("prompts", rows)
    batches = Batches(rows, BatchConfig(size=size), seed=seed, two_of=two)
    for epoch in range(2):
        steps = [batches.groups(epoch * batches.num_steps + step) for step in range(batches.num_steps)]
        assert sorted(int(group.id) for step in steps for group in step) == list(range(len(rows)))
        if weight and two.num_rare >= len(steps):
            assert all(len({group.prompt[0] for group in step}) > 1 for step in steps)
            assert batches.short_steps(epoch) == 0
        short = [len({int(group.prompt[0]) for group in step if group.weight}) < 2 for step in steps]
        assert batches.short_steps(epoch) == sum(short)


def test_rows_that_are_mixed_already_keep_their_steps_and_an_order_without_shuffling_stays_near():
    rows = [row(n, prompt=n) for n in range(12)]
    config = BatchConfig(size=4)
    plain, mixed = Batches(rows, config, seed=3), Batches(rows, config, seed=3, two_of=TwoOf.of("prompts", rows))
    assert [[g.id for g in plain.groups(n)] for n in range(6)] == [[g.id for g in mixed.groups(n)] for n in range(6)]
    sorted_rows = [row(n, desirable=n < 8) for n in range(12)]
    steps = Batches(sorted_rows, BatchConfig(size=4, shuffle=False), two_of=TwoOf.of("labels", sorted_rows))
    found = [[int(group.id) for group in steps.groups(step)] for step in range(3)]
    assert found == [[0, 1, 2, 8], [4, 5, 6, 9], [3, 7, 10, 11]]


def test_no_step_of_one_row_is_left_at_the_end():
    rows = [row(n, prompt=n) for n in range(9)]
    batches = Batches(rows, BatchConfig(size=4), two_of=TwoOf.of("prompts", rows))
    assert [len(batches.groups(step)) for step in range(batches.num_steps)] == [4, 3, 2]


@pytest.mark.parametrize(("prompts", "size"), [([0] * 9, None), ([0] * 9 + [1], 10), ([0, 1] * 5, 2), ([], None)])
def test_the_least_batch_size_at_which_it_can_be(prompts, size):
    assert TwoOf.of("prompts", [row(n, prompt) for n, prompt in enumerate(prompts)]).least_size == size


def test_many_rows_of_which_few_are_rare_are_mixed():
    """Two of a hundred: a step of 64 holds none of them in a quarter of all cases."""
    rare = np.arange(100_000) >= 98_000
    two = TwoOf("labels", rare.astype(np.int64))
    edges = [*range(0, 100_000, 64), 100_000]
    order = two.spread(np.random.default_rng(0).permutation(100_000), edges)
    assert all(two.holds(order[begin:end]) for begin, end in pairwise(edges))
    assert np.array_equal(np.sort(order), np.arange(100_000))
