import json
import math
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


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
    inner = Inner(Estimate(value=0.5, low=-math.inf, high=0.75, level=0.95, n=3), np.bool_(True))
    found = json.loads(json.dumps(Outer({"a": (inner,)}, np.array([1.0, np.nan])).as_dict()))
    assert found == {
        "parts": {"a": [{"share": {"value": 0.5, "low": None, "high": 0.75, "level": 0.95, "n": 3}, "flag": True}]},
        "curve": [1.0, None],
        "nothing": None,
    }
