"""Guard rails of masks: each fires on the held-out lines it is for, and is silent on a healthy run."""

from __future__ import annotations

import pytest

from exptilt.training.callbacks.callback import Progress
from exptilt.training.guards.cautions import Facts
from exptilt.training.guards.guards import Guards
from exptilt.training.guards.mask_dangers import OF_MASKS
from exptilt.training.sums import Sums

FACTS = Facts("mixture", rows=200, of_masks=True)
HEALTHY = {"agreement": -0.2, "foreground": 0.2, "kl": 0.1, "loss": 0.9}


def said(*lines, facts=FACTS, num_steps=10):
    found = []
    guards = Guards(facts, found.append, checks=OF_MASKS)
    for step, values in enumerate(lines):
        named = {f"eval/{name}": value for name, value in (HEALTHY | values).items()}
        guards.on_metrics(Progress(step, num_steps, num_steps), named)
    return [(one.name, one.step, one.alarm, one.value) for one in found]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"agreement": -0.29, "foreground": 0.3, "kl": 0.4}, []),  # a run that gains
        ({"agreement": -0.31}, [("displacement", 1, False, pytest.approx(-0.11))]),
        ({"foreground": 0.0005}, [("runaway", 1, True, 0.0005)]),
        ({"foreground": 0.9995}, [("runaway", 1, True, 0.9995)]),
        ({"foreground": 0.002}, []),
        ({"kl": 1.1}, [("kl", 1, False, 1.1)]),
    ],
)
def test_held_out_dangers(now, expected):
    assert said({}, now) == expected


def test_a_start_that_knew_one_class_is_not_blamed_on_the_run():
    assert said({"foreground": 0.004}, {"foreground": 0.0}) == []


def test_half_way_a_segmenter_has_moved_or_it_is_said():
    assert said({}, {"kl": 9e-6}, num_steps=2) == [("flat", 1, False, 9e-6)]
    assert said({}, {"kl": 9e-6}, num_steps=3) == said({}, {"kl": 2e-5}, num_steps=2) == []


def test_texts_are_not_told_what_masks_are_watched_for():
    """A mask of 100 differing pixels may lose 20 nats of chosen in a sum; nothing here reads them."""
    found = []
    guards = Guards(FACTS, found.append, checks=OF_MASKS)
    names = {
        "displacement/chosen": -200.0,
        "displacement/rejected": -400.0,
        "lengths/chosen": 1.0,
        "loss": 0.6,
        "grad_norm": 1.0,
    }
    for step in range(1, 6):
        guards.after_step(Progress(step, 10, 10), Sums({name: [value, 1.0] for name, value in names.items()}))
    assert found == []


def test_rows_that_all_tie_are_not_given_a_key_that_masks_lack():
    found = []
    guards = Guards(FACTS, found.append, checks=OF_MASKS)
    for step in range(1, 4):
        guards.after_step(Progress(step, 10, 10), Sums({"loss": [0.7, 1.0], "grad_norm": [0.0, 1.0]}))
    assert [(one.name, one.advice) for one in found] == [("no_gradient", "raise optim.learning_rate")]
