from __future__ import annotations

import pytest
import torch

from exptilt.policies.reference.kept_logps import KeptLogProbs, Scored
from exptilt.types import LogProbs


def part(*rows: list[float]) -> LogProbs:
    return LogProbs(
        values=torch.tensor([value for row in rows for value in row]),
        lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64),
    )


def test_rows_of_many_parts_are_found_again_and_the_first_of_a_key_stays():
    kept = KeptLogProbs()
    kept.add([b"a", b"b"], part([-1.0, -2.0], [], [-3.0]), counts=[2, 1])
    kept.add([], part(), counts=[])
    kept.add([b"b", b"c"], part([-9.0], [-4.0], [-5.0, -6.0]), counts=[1, 2])
    assert (len(kept), list(kept)) == (3, [b"a", b"b", b"c"])
    assert kept[b"b"].tokens().tolist() == [-3.0]
    found = kept.of([b"c", b"a", b"c"])
    assert found.sum().tolist() == [-4.0, -11.0, -3.0, 0.0, -4.0, -11.0]
    assert found.lengths.tolist() == [1, 2, 2, 0, 1, 2]
    with pytest.raises(KeyError):
        kept[b"d"]


def test_what_is_known_is_taken_out_of_what_was_scored():
    rows = Scored([b"a", b"b", b"c"], part([-1.0], [-2.0, -3.0], [-4.0], [-5.0]), [1, 2, 1])
    assert rows.without({b"d"}) is rows
    assert rows.without({b"a", b"b", b"c"}) is None
    left = rows.without({b"b"})
    assert left is not None
    assert (left.keys, left.counts, left.logps.tokens().tolist()) == ([b"a", b"c"], [1, 1], [-1.0, -5.0])
