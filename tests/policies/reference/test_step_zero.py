"""What rounding may explain before step 1, and what it may not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from exptilt.errors import TrainingError
from exptilt.policies.reference.step_zero import check_step_zero
from exptilt.policies.scoring import score


def shifted(model, by):
    def scorer(groups):
        logps = score(model, groups)
        shift = torch.zeros_like(logps.tokens())
        shift[-1] = by
        return replace(logps, values=logps.tokens() + shift)

    return scorer


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 5e-4), (torch.bfloat16, 0.2)])
def test_the_worst_token_decides(tiny_model, draw_rows, dtype, rounding):
    model, rows = tiny_model(dtype=torch.float32), draw_rows("pair")
    plain = shifted(model, 0.0)
    assert check_step_zero(shifted(model, rounding), plain, rows, dtype) == pytest.approx(rounding, rel=1e-2)
    with pytest.raises(TrainingError, match=rf"differ by {4 * rounding:.1g}"):
        check_step_zero(plain, shifted(model, 4 * rounding), rows, dtype)


def test_nan_is_never_within_rounding(tiny_model, draw_rows):
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(TrainingError, match="differ by nan"):
        check_step_zero(shifted(model, float("nan")), shifted(model, 0.0), draw_rows("pair"), torch.float32)
