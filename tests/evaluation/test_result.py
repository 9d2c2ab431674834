import json
import math
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import Estimate
from exptilt.evaluation.result import Panel


@dataclass(frozen=True)
class Inner(Panel):
    share: Estimate
    flag: np.bool_


@dataclass(frozen=True)
class Outer(Panel):
    parts: dict[str, tuple[Inner, ...]]
    curve: np.ndarray
    nothing: None = None


def test_nested_results_become_json():
    inner = Inner(Estimate(0.5, -math.inf, 0.75, 0.95, 3), np.bool_(True))
    found = json.loads(json.dumps(Outer({"a": (inner,)}, np.array([1.0, np.nan])).as_dict()))
    assert found == {
        "parts": {"a": [{"share": {"value": 0.5, "low": None, "high": 0.75, "level": 0.95, "n": 3}, "flag": True}]},
        "curve": [1.0, None],
        "nothing": None,
    }
