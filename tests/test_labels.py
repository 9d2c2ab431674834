from __future__ import annotations

import pytest

from exptilt.labels import Desirable, Preferred, Ranked


@pytest.mark.parametrize(
    ("label", "best"),
    [
        (Preferred(), 0),
        (Preferred(0.5), 0),
        (Preferred(0.49), 1),
        (Ranked((2, 1, 1)), 1),
        (Ranked((1,)), 0),
        (Desirable(True), 0),
        (Desirable(False), None),
    ],
)
def test_the_best_completion_is_where_the_label_says(label, best):
    assert label.best == best
