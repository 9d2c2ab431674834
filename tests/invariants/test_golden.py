"""Twenty DPO steps from fixed numbers: a trajectory that only changes if somebody means it to.

After a change that is meant to move it, write it anew and say in the change why:

    EXPTILT_WRITE_GOLDEN=1 python -m pytest tests/invariants/test_golden.py
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exptilt.data.groups import Group
from exptilt.losses import DPO
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.callbacks.callback import Callback
from exptilt.training.loop import train

GOLDEN = Path(__file__).parent / "golden" / "dpo.json"
NAMES = ("loss", "rewards/margins", "grad_norm")


def named(groups: list[Group]) -> list[Group]:
    """One name for one row, whichever draw it is from."""
    return [replace(group, id=f"{group.id} of {len(groups)} after {group.prompt.tolist()}") for group in groups]


def test_twenty_steps_of_dpo(make_run, draw_rows, tiny_model):
    seen: dict[str, list[float]] = {name: [] for name in NAMES}

    class Watch(Callback):
        def after_step(self, progress: Any, sums: Any) -> None:
            for name in NAMES:
                seen[name].append(sums.means()[name])

    model = tiny_model(dtype=torch.float32)
    rng = np.random.default_rng(0)
    with torch.no_grad():  # weights by numpy, whose generator keeps its numbers from version to version
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape))))
    steps = [[named(draw_rows("pair", 3, seed=n % 4)), named(draw_rows("pair", 2, seed=n % 4))] for n in range(20)]
    optim = OptimConfig(learning_rate=3e-3, warmup_ratio=0.2, weight_decay=0.01, schedule="cosine")
    train(make_run(DPO(beta=0.5), steps, model, optim, callbacks=[Watch()]))
    assert seen["loss"][-1] < 0.8 * seen["loss"][0]
    if os.environ.get("EXPTILT_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(seen, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for name in NAMES:
        assert seen[name] == pytest.approx(golden[name], rel=1e-4, abs=1e-5), name
