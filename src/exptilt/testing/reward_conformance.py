"""A conformance kit for rewards of your own: what `exptilt pair`, `judge` and rounds rely on, checked on a few answers.

    def test_mine():
        require_conforming_reward(MyReward())

The reward is called in this process and without a bound of time, so that a debugger can follow it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import ExptiltError
from exptilt.preferences import Answer
from exptilt.rewards.scored_answers import rewards_of
from exptilt.testing.check_finding import CheckFinding
from exptilt.wording import in_one_line

_TURNS = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a fjord."})
ANSWERS = (
    Answer(prompt="What is 2 + 2?", text="It is 4.", columns={"answer": "4"}),
    Answer(
        prompt="What is 2 + 2?", text="I think that it is five,\nbecause two and two are five.", columns={"answer": "4"}
    ),
    Answer(prompt="What is 2 + 2?", text="", columns={"answer": "4"}),
    Answer(
        prompt=_TURNS, text="Sognefjorden \N{MOUNT FUJI}", ids=np.array([5, 6, 2], np.int32), columns={"answer": "x"}
    ),
    Answer(prompt=_TURNS, text="naïve " * 200, columns={"answer": "x"}),
)
"""Short, long and empty answers to text and to turns, with and without token ids."""


def check_reward(
    reward: Any, answers: Sequence[Answer] = ANSWERS, *, couples_answers: bool = False, skip: Sequence[str] = ()
) -> tuple[CheckFinding, ...]:
    """Check everything that the commands rely on.

    declared: a name, an identity and a scale that are words, or a function, whose import path stands for them.
    result: one finite number, or NaN, for each answer.
    repeat: the same answers get the same numbers.
    order: answers in another order get their numbers in that order.
    alone: an answer alone gets the number it gets beside others.
    none: no answers get no numbers.
    unchanged: the answers are as they were.
    spread: not all answers get one number.

    Args:
        reward: a reward, or a function of answers.
        answers: at least two that it should tell apart; those of the kit are in `ANSWERS`.
        couples_answers: an answer's number depends on the answers beside it, on purpose.
        skip: names of checks to leave out.

    Raises:
        ValueError: a name in `skip` is unknown, or there are fewer than two answers.

    Example:
        >>> from exptilt.rewards.length_reward import Length
        >>> [finding.check for finding in check_reward(Length()) if finding.fault]
        []
    """
    unknown = set(skip) - _CHECKS.keys()
    if unknown:
        raise ValueError(f"skip: there is no check {sorted(unknown)[0]!r}; there are {', '.join(_CHECKS)}")
    if len(answers) < 2:
        raise ValueError(f"answers: a reward is checked on two at least, got {len(answers)}")
    left_out = {*skip, *(["alone"] if couples_answers else [])}
    return tuple(
        CheckFinding(name, _fault(check, reward, answers)) for name, check in _CHECKS.items() if name not in left_out
    )


def require_conforming_reward(
    reward: Any, answers: Sequence[Answer] = ANSWERS, *, couples_answers: bool = False, skip: Sequence[str] = ()
) -> None:
    """Raise if a check of `check_reward` finds a fault, naming all of them.

    Raises:
        AssertionError: a line for each fault.
    """
    findings = check_reward(reward, answers, couples_answers=couples_answers, skip=skip)
    faults = [f"{finding.check}: {finding.fault}" for finding in findings if finding.fault]
    if faults:
        raise AssertionError(f"{_title(reward)} does not conform\n" + "\n".join(faults))


def _title(reward: Any) -> str:
    return str(getattr(reward, "__name__", type(reward).__name__))


class _Named:
    """A reward or a function, under a name that messages can use."""

    def __init__(self, reward: Any) -> None:
        self.name, self.identity, self.scale = _title(reward), "", ""
        self._reward = reward

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        given: NDArray[np.float64] = self._reward(answers)
        return given


def _numbers(reward: Any, answers: Sequence[Answer]) -> NDArray[np.float64]:
    return rewards_of(_Named(reward), copy.deepcopy(list(answers)))  # one that changes them spoils no other check


def _fault(check: Callable[[Any, Sequence[Answer]], str], reward: Any, answers: Sequence[Answer]) -> str:
    try:
        return check(reward, answers)
    except ExptiltError as error:
        return str(error).partition(": ")[2] or str(error)
    except Exception as error:  # of the reward under test, whatever it is
        return f"{type(error).__name__}: {in_one_line(error)}"


def _declared(reward: Any, answers: Sequence[Answer]) -> str:
    if hasattr(reward, "__name__"):  # a function
        return ""
    for name in ("name", "identity", "scale"):
        value = getattr(reward, name, None)
        if not isinstance(value, str) or not value.strip():
            return f"it must have a {name} in words, got {value!r}"
    return ""


def _result(reward: Any, answers: Sequence[Answer]) -> str:
    values = _numbers(reward, answers)
    return "every answer is unscored" if np.isnan(values).all() else ""


def _repeat(reward: Any, answers: Sequence[Answer]) -> str:
    once, again = _numbers(reward, answers), _numbers(reward, answers)
    return "" if _same(once, again) else f"answers got {once.tolist()}, and {again.tolist()} when asked again"


def _order(reward: Any, answers: Sequence[Answer]) -> str:
    given, turned = _numbers(reward, answers), _numbers(reward, answers[::-1])
    return "" if _same(given[::-1], turned) else f"answers got {given.tolist()}, and in reverse {turned[::-1].tolist()}"


def _alone(reward: Any, answers: Sequence[Answer]) -> str:
    together = _numbers(reward, answers)
    for at, answer in enumerate(answers):
        value = _numbers(reward, [answer])
        if not _same(value, together[at : at + 1]):
            return (
                f"answer {at + 1} gets {value[0]:g} alone and {together[at]:g} beside others; set couples_answers=True"
            )
    return ""


def _none(reward: Any, answers: Sequence[Answer]) -> str:
    _numbers(reward, [])
    return ""


def _unchanged(reward: Any, answers: Sequence[Answer]) -> str:
    given = copy.deepcopy(list(answers))
    kept = copy.deepcopy(given)
    rewards_of(_Named(reward), given)
    return "" if list(map(repr, given)) == list(map(repr, kept)) else "it changes the answers"


def _spread(reward: Any, answers: Sequence[Answer]) -> str:
    values = _numbers(reward, answers)
    scored = values[~np.isnan(values)]
    return f"it gives {scored[0]:g} to every answer" if len(scored) > 1 and np.ptp(scored) == 0 else ""


def _same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9, equal_nan=True))


_CHECKS: dict[str, Callable[[Any, Sequence[Answer]], str]] = {
    "declared": _declared, "result": _result, "repeat": _repeat, "order": _order, "alone": _alone, "none": _none,
    "unchanged": _unchanged, "spread": _spread,
}  # fmt: skip
