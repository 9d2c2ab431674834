"""A kind is enough for everybody who asks: a new one goes through data, loss and report without being named anywhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import exptilt
from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError
from exptilt.kinds import COMPLETION, KINDS, LIST, PAIR, REWARD, UNPAIRED, Kind, kind_for, kind_of
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses import AnyLoss, AnyRewardLoss, Loss
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig
from exptilt.training.objective import Objective
from exptilt.types import LogProbs

SOURCE = Path(exptilt.__file__).parent


def test_a_kind_is_printed_compared_and_looked_up_by_its_name():
    assert [str(kind) for kind in KINDS] == [
        "pair",
        "completion",
        "unpaired",
        "list",
        "rollout",
        "reward",
        "reward_list",
    ]
    assert (PAIR == "pair", PAIR == "list", PAIR == REWARD, PAIR != LIST, {PAIR: 1}["pair"]) == (
        True,
        False,
        False,
        True,
        1,
    )
    assert [kind_of(kind.name) is kind for kind in KINDS] == [True] * 7
    assert kind_of(PAIR) is PAIR
    with pytest.raises(ConfigError, match="kind: 'pairs' is not known; there are pair, completion, unpaired, list"):
        kind_of("pairs")


def test_what_a_kind_says_of_its_rows():
    assert [kind.num_completions for kind in KINDS] == [2, 1, 1, None, None, 2, None]
    assert [kind.is_paired for kind in KINDS] == [True, False, False, False, False, True, False]
    assert [kind.imitates for kind in KINDS] == [False, True, False, False, False, False, False]
    assert [kind_for(label) for label in (Preferred, Ranked, Desirable, None)] == [PAIR, LIST, UNPAIRED, COMPLETION]


def test_every_loss_has_one_of_the_kinds():
    members = (*get_args(AnyLoss), *get_args(AnyRewardLoss))
    assert {member.kind for member in members} == set(KINDS)
    assert all(member().kind is kind_of(member.kind.name) for member in members)


def test_nobody_asks_a_loss_or_a_kind_by_name():
    """No comparison with the name of a kind, of SFT, or of what KTO and TDPO need, outside the losses themselves."""
    names = {kind.name for kind in KINDS} | {"sft", "mismatched", "mismatched_reference", "divergence"}
    allowed = {"kinds.py", "losses/base.py", "policies/engine/distribution.py"}
    asked = []
    for file in SOURCE.rglob("*.py"):
        place = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and place not in allowed:
                sides = [node.left, *node.comparators]
                said = {part.value for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)}
                text = ast.unparse(node)
                if said & names and re.search(r"kind|loss|inputs|byproducts", text):
                    asked.append(f"{place}: {text}")
    assert asked == []


def test_kinds_and_labels_need_no_torch():
    code = "import sys, exptilt.kinds, exptilt.labels, exptilt.data.prepared; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


class Gain(NamedTuple):
    """What the loss below returns."""

    loss: Tensor
    weight: Tensor | None
    gain: Tensor

    def rewards(self, columns):
        return {"gain": self.gain, "best_score": columns["scores"].view(-1, 3).amax(dim=1)}


TRIPLE = Kind(
    name="triple",
    title="Triples",
    rows="three completions with scores",
    label=Ranked,
    sides=("first", "second", "third"),
    columns=("scores",),
)


@dataclass(frozen=True)
class OfThree(Loss):
    """The score-weighted log-ratio of three completions, by a kind that the package does not know."""

    name: str = "of_three"
    kind: ClassVar = TRIPLE

    def __call__(self, policy, reference, scores):
        gain = ((policy.sum() - reference.sum()) * scores).view(-1, 3).sum(dim=1)
        return Gain(-gain, None, gain.detach())


def test_a_new_kind_is_one_object_and_its_loss(tmp_path):
    """Rows of it are prepared, its loss is formed, and its metrics are named by its sides; the numbers by hand."""
    scored = [{"prompt": f"q{n}", "completions": [" a", " bb", " ccc"], "scores": [1.0, 3.0, 2.0]} for n in range(2)]
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in scored))
    prepared = prepare(DataConfig(train=str(path)), train_tokenizer(["a bb ccc q"], 259), TRIPLE)
    assert (prepared.report.kind, list(prepared.report.train.lengths)) == (
        "triple",
        ["prompt", "first", "second", "third"],
    )
    rows = list(prepared.train)
    assert [row.label for row in rows] == [Ranked((3, 1, 2))] * 2
    policy = LogProbs.from_sums(torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]), torch.ones(6, dtype=torch.int64))
    reference = LogProbs.from_sums(torch.full((6,), -4.0), torch.ones(6, dtype=torch.int64))
    means = Objective(OfThree())(rows, policy, reference).sums.means()
    assert means["loss"] == pytest.approx(-((3 * 1 + 2 * 3 + 1 * 2) + (0 * 1 - 1 * 3 - 2 * 2)) / 2)
    assert (means["rewards/gain"], means["rewards/best_score"]) == (pytest.approx(2.0), 3.0)
    assert (means["logps/first"], means["logps/second"], means["displacement/third"]) == (-2.5, -3.5, -0.5)


def test_a_group_of_something_else_than_tokens_is_a_group():
    """Its prompt and completions are type parameters; what asks for its label or weight sees no difference."""
    mask = np.ones((2, 3), dtype=bool)
    row: Group[np.ndarray, np.ndarray] = Group(
        id="image:1", prompt=np.zeros((2, 3, 3)), completions=(mask, ~mask), label=Preferred(0.2), weight=2.0
    )
    assert (row.label.best, row.completions[1].any(), row.weight) == (1, False, 2.0)
    text = Group(id="a", prompt=np.arange(2), completions=(Completion(np.arange(3), np.ones(3, bool)),))
    assert text.num_tokens == 5
