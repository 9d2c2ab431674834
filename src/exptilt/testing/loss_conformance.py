"""A conformance kit for losses of your own: what the training loop relies on, checked on small random rows.

    def test_mine():
        require_conforming(MyLoss(alpha=0.3))

Every check goes through the objective that training uses, so a loss that passes is one that runs, split and resumed, as it is written.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Completion, Credit, Group
from exptilt.errors import ExptiltError
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses.calls import arguments_of, call
from exptilt.losses.from_choice import build_loss
from exptilt.settings.loss_choice import choice_of
from exptilt.testing.check_finding import CheckFinding
from exptilt.training.columns import columns_of
from exptilt.training.objective import Objective
from exptilt.training.output import Output
from exptilt.types import LogProbs
from exptilt.wording import in_one_line


def check_loss(
    loss: Any, *, stops_gradient: bool = False, skip: Sequence[str] = (), seed: int = 0
) -> tuple[CheckFinding, ...]:
    """Check everything that training relies on.

    declared: a frozen dataclass with a name and a kind, equal to what its import path and settings make again.
    result: a finite loss for every row, with a gradient; rewards without one.
    gradient: equal to central differences in float64.
    split: rows in pieces give the losses they have together, unless `couples_batch` says that they do not.
    order: neither the mean nor the gradient depends on the order of the rows.
    weights: weight 2 is the row twice, weight 0 is the row absent.
    swap: a pair with p_chosen 0 is the exchanged pair.
    finite: no overflow in float32 where log-probabilities are far apart, and none where policy and reference agree.
    needs: what `needs_reference`, `needs_lengths` and `needs_tokens` deny is not read.
    state: a stateful loss starts from numbers that a checkpoint can keep.
    docs: a docstring with one line, a formula and Use when, Known failure, Source; help under every setting.

    Args:
        loss: on log-probabilities, of any kind; reward models are not checked.
        stops_gradient: the loss holds some of its terms fixed on purpose, so differences are not its gradient.
        skip: names of checks to leave out.
        seed: of the rows.

    Raises:
        ValueError: the loss is a reward model's, or a name in `skip` is unknown.

    Example:
        >>> from exptilt.losses import DPO
        >>> [finding.check for finding in check_loss(DPO()) if finding.fault]
        []
    """
    unknown = set(skip) - _CHECKS.keys()
    if unknown:
        raise ValueError(f"skip: there is no check {sorted(unknown)[0]!r}; there are {', '.join(_CHECKS)}")
    if loss.kind.reads != "logps":
        raise ValueError(f"{loss.name} is a reward model's loss; this kit checks losses on log-probabilities")
    left_out = {*skip, *(["gradient"] if stops_gradient else [])}
    bench = _Bench(loss, seed)
    return tuple(CheckFinding(name, _fault(check, bench)) for name, check in _CHECKS.items() if name not in left_out)


def require_conforming(loss: Any, *, stops_gradient: bool = False, skip: Sequence[str] = (), seed: int = 0) -> None:
    """Raise if a check of `check_loss` finds a fault, naming all of them.

    Raises:
        AssertionError: a line for each fault.
    """
    found = check_loss(loss, stops_gradient=stops_gradient, skip=skip, seed=seed)
    faults = [f"{finding.check}: {finding.fault}" for finding in found if finding.fault]
    if faults:
        raise AssertionError(f"{type(loss).__name__} does not conform\n" + "\n".join(faults))


_PLACES = 12
"""Tokens in which the gradient is compared with differences."""


class _Bench:
    """A loss, rows for it, and log-probabilities that belong to the content of a row, wherever it stands."""

    def __init__(self, loss: Any, seed: int) -> None:
        self.loss, self.seed = loss, seed
        self.rows = [self._row(number) for number in range(6)]

    def _row(self, number: int) -> Group:
        rng = np.random.default_rng([self.seed, number])
        count = self.loss.kind.num_completions or 3
        scores = (
            rng.permutation(count) + rng.uniform(0.1, 0.9)
        ) / count  # in (0, 1), as some losses read probabilities
        completions = []
        for place in range(count):
            ids = rng.integers(3, 99, int(rng.integers(2, 7)), dtype=np.int32)
            version = 1 if place == number % 2 else None
            drawn_with, advantages = rng.uniform(-2, 1, (2, len(ids))).astype(np.float32)
            credit = Credit(advantages, advantages + 1, np.ones_like(advantages))
            counted = np.ones(len(ids), np.bool_)
            completions.append(Completion(ids, counted, float(scores[place]), drawn_with, version, credit))
        label = self.loss.kind.label
        made: Any = None
        if label is Preferred:
            made = Preferred(margin=float(rng.uniform(0.5, 2)))
        elif label is Ranked:
            made = Ranked(tuple(int(rank) + 1 for rank in (-scores).argsort().argsort()))
        elif label is Desirable:
            made = Desirable(bool(number % 2))
        prompt = np.array([1, number + 3], np.int32)
        return Group(id=f"row {number}", prompt=prompt, completions=tuple(completions), label=made)

    def logps(self, rows: Sequence[Group], side: str, scale: float = 1.0) -> LogProbs:
        """Of every completion, by its tokens."""
        parts = [self._logps(row, one, side, scale) for row in rows for one in row.completions]
        return LogProbs.cat(parts)

    def _logps(self, row: Group, completion: Completion, side: str, scale: float) -> LogProbs:
        content = row.prompt.tobytes() + completion.ids.tobytes() + side.encode()
        generator = torch.Generator().manual_seed(zlib.crc32(content))
        num = len(completion.ids)

        def draw() -> Tensor:
            return torch.rand(num, generator=generator, dtype=torch.float64)

        values = -scale * (0.05 + 2 * draw())
        further = {"entropy": draw(), "log_sum_squares": -draw(), "divergence": draw(), "kl": draw()}
        byproducts = {name: further[name] for name in self.loss.byproducts}
        return LogProbs(values=values, lengths=torch.tensor([num]), **byproducts)

    def prepared(self, rows: Sequence[Group]) -> list[Group]:
        return Objective(self.loss).prepare(rows)

    def form(self, rows: Sequence[Group], policy: LogProbs | None = None, reference: LogProbs | None = None) -> Output:
        """The objective on prepared rows."""
        policy = self.logps(rows, "policy") if policy is None else policy
        if reference is None and self.loss.needs_reference:
            reference = self.logps(rows, "reference")
        return Objective(self.loss)(rows, policy, reference)

    def value(self, rows: Sequence[Group]) -> float:
        """The objective of a batch: the weighted mean."""
        out = self.form(self.prepared(rows))
        return float(out.loss / out.weight)


def _fault(check: Callable[[_Bench], str], bench: _Bench) -> str:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            return check(bench)
    except Exception as error:  # of the loss under test, whatever it is
        return f"{type(error).__name__}: {in_one_line(error)}"


def _declared(bench: _Bench) -> str:
    loss = bench.loss
    if not getattr(getattr(loss, "__dataclass_params__", None), "frozen", False):
        return "is no frozen dataclass; decorate the class with exptilt.settings.declaration.config"
    if not isinstance(loss.name, str) or not re.fullmatch(r"\w+", loss.name):
        return f"its name must be one word, got {loss.name!r}"
    try:
        again = build_loss(choice_of(loss))
    except ExptiltError as error:
        return str(error)
    return "" if again == loss and hash(again) == hash(loss) else f"a recipe makes {again} of it"


def _result(bench: _Bench) -> str:
    rows = bench.prepared(bench.rows)
    policy = bench.logps(rows, "policy")
    leaves = {name: getattr(policy, name).requires_grad_() for name in _units(bench.loss)}
    out = bench.form(rows, dataclasses.replace(policy, **leaves))
    if out.losses.shape != (len(rows),):
        return f"its loss must have one value per row, shape ({len(rows)},), got {tuple(out.losses.shape)}"
    if not out.loss.requires_grad:
        return "its loss has no gradient in the policy's log-probabilities"
    return _rewards_fault(bench, rows)


def _rewards_fault(bench: _Bench, rows: Sequence[Group]) -> str:
    loss, policy = bench.loss, bench.logps(rows, "policy")
    policy = dataclasses.replace(policy, values=policy.tokens().requires_grad_())
    reference = bench.logps(rows, "reference") if loss.needs_reference else None
    state = loss.initial_state() if loss.is_stateful else None
    columns = columns_of(rows, loss, torch.device("cpu"))
    result: Any = call(loss, arguments_of(loss, policy, reference), columns, state)
    carrying = [name for name, value in result._asdict().items() if "reward" in name and value.requires_grad]
    return f"{carrying[0]} carries a gradient; detach it" if carrying else ""


def _gradient(bench: _Bench) -> str:
    rows = bench.prepared(bench.rows)
    return next((fault for name in _units(bench.loss) if (fault := _slope_fault(bench, rows, name))), "")


def _units(loss: Any) -> tuple[str, ...]:
    """Fields of `LogProbs` that carry a gradient: log-probabilities of tokens, and what else the loss reads of their distributions."""
    return ("values", *loss.byproducts)


def _slope_fault(bench: _Bench, rows: Sequence[Group], name: str) -> str:
    policy = bench.logps(rows, "policy")
    values = getattr(policy, name)

    def value(moved: Tensor) -> Tensor:
        out = bench.form(rows, dataclasses.replace(policy, **{name: moved}))
        return out.loss / out.weight

    leaf = values.clone().requires_grad_()
    slope = _slope_in(value(leaf), leaf)
    for place in range(0, len(values), max(1, len(values) // _PLACES)):
        step = torch.zeros_like(values)
        step[place] = 1e-5
        expected = float(value(values + step) - value(values - step)) / 2e-5
        if abs(expected - float(slope[place])) > 1e-6 * max(1.0, abs(expected)):
            return f"in {name} of token {place} it is {float(slope[place]):.6g}, by differences {expected:.6g}"
    return ""


def _slope_in(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient in a leaf; zero where the loss does not read it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (slope,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if slope is None else slope


def _split(bench: _Bench) -> str:
    rows = bench.prepared(bench.rows)
    if bench.loss.couples_batch:
        return ""
    whole = bench.form(rows).losses
    pieces = torch.cat([bench.form(rows[start : start + 2]).losses for start in range(0, len(rows), 2)])
    return "" if _close(whole, pieces) else "rows have another loss in pieces; set couples_batch = True"


def _order(bench: _Bench) -> str:
    order = [3, 0, 5, 1, 4, 2]
    first, second = bench.value(bench.rows), bench.value([bench.rows[at] for at in order])
    return "" if _close(first, second) else f"the mean is {first:.9g}, and {second:.9g} in another order"


def _weights(bench: _Bench) -> str:
    rows = bench.rows
    for number in (0, len(rows) - 1):
        double, absent = (
            [dataclasses.replace(row, weight=w) if at == number else row for at, row in enumerate(rows)]
            for w in (2.0, 0.0)
        )
        one, two = bench.value(double), bench.value([*rows, rows[number]])
        if not _close(one, two):
            return f"a row of weight 2 gives {one:.9g}, the row twice {two:.9g}"
        one, two = bench.value(absent), bench.value(rows[:number] + rows[number + 1 :])
        if not _close(one, two):
            return f"a row of weight 0 gives {one:.9g}, without the row it is {two:.9g}"
    return ""


def _swap(bench: _Bench) -> str:
    if bench.loss.kind.label is not Preferred:
        return ""
    for number in (0, len(bench.rows) - 1):
        row = bench.rows[number]
        margin = row.label.margin if isinstance(row.label, Preferred) else None
        doubted = dataclasses.replace(row, label=Preferred(p_chosen=0.0, margin=margin))
        exchanged = dataclasses.replace(row, completions=row.completions[::-1])
        one, two = (
            bench.value([*bench.rows[:number], changed, *bench.rows[number + 1 :]]) for changed in (doubted, exchanged)
        )
        if not _close(one, two):
            return f"p_chosen 0 gives {one:.9g}, the exchanged pair {two:.9g}"
    return ""


def _finite(bench: _Bench) -> str:
    rows = bench.prepared(bench.rows)
    for scales, words in (
        ((1e4, 1.0), "fallen"),
        ((1.0, 1e4), "risen"),
        ((1.0, 1.0), "ordinary"),
        ((1e-7, 1e-7), "certain"),
    ):
        policy, reference = (
            bench.logps(rows, side, scale).to(torch.float32)
            for side, scale in zip(("policy", "reference"), scales, strict=True)
        )
        for base in (reference, policy) if words == "ordinary" else (reference,):
            leaf = policy.tokens().clone().requires_grad_()
            moved = dataclasses.replace(policy, values=leaf)
            out = bench.form(rows, moved, base if bench.loss.needs_reference else None)
            slope = _slope_in(out.loss, leaf)
            if not bool(slope.isfinite().all()):
                return f"its gradient is not finite where log-probabilities are {words}"
    return ""


def _needs(bench: _Bench) -> str:
    loss, rows = bench.loss, bench.prepared(bench.rows)
    whole = bench.form(rows).losses
    if not loss.needs_reference and not _close(whole, Objective(loss)(rows, bench.logps(rows, "policy"), None).losses):
        return "it reads the reference; set needs_reference = True"
    if not loss.sums_suffice:
        return ""
    longer = 1 if loss.needs_lengths else 3
    policy, reference = (
        LogProbs.from_sums(logps.sum(), longer * logps.lengths)
        for logps in (bench.logps(rows, "policy"), bench.logps(rows, "reference"))
    )
    found = bench.form(rows, policy, reference if loss.needs_reference else None).losses
    return "" if _close(whole, found) else "it reads lengths; set needs_lengths = True"


def _state(bench: _Bench) -> str:
    if not bench.loss.is_stateful:
        return ""
    start = bench.loss.initial_state()
    if json.loads(json.dumps(start)) != start or not all(isinstance(value, float) for value in start.values()):
        return f"initial_state must be a dict of finite floats, got {start}"
    objective = Objective(bench.loss)
    rows = bench.prepared(bench.rows)
    reference = bench.logps(rows, "reference") if bench.loss.needs_reference else None
    objective.advance(objective(rows, bench.logps(rows, "policy"), reference).sums)
    return "" if objective.state.keys() == start.keys() else "next_state has other keys than initial_state"


def _docs(bench: _Bench) -> str:
    cls = type(bench.loss)
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    summary = text.partition("\n")[0]
    if not summary.endswith("."):
        return "its docstring must begin with one line that ends with a full stop"
    if not re.search(r"^    \S", text, re.MULTILINE):
        return "its docstring must hold the formula, indented"
    for label in ("Use when:", "Known failure:", "Source:"):
        if f"\n{label}" not in text:
            return f"its docstring must say {label!r}"
    source = inspect.getsource(cls)
    for field in dataclasses.fields(bench.loss):
        written = re.search(rf'^    {field.name}:.*?\n(?=    \S)(    """)?', source, re.MULTILINE | re.DOTALL)
        if field.name != "name" and not (written and written.group(1)):
            return f"the field {field.name} must have its help as a string under it"
    return ""


def _close(one: Any, two: Any) -> bool:
    return torch.allclose(torch.as_tensor(one).double(), torch.as_tensor(two).double(), rtol=1e-9, atol=1e-12)


_CHECKS: dict[str, Callable[[_Bench], str]] = {
    "declared": _declared, "result": _result, "gradient": _gradient, "split": _split, "order": _order, "weights": _weights,
    "swap": _swap, "finite": _finite, "needs": _needs, "state": _state, "docs": _docs,
}  # fmt: skip
