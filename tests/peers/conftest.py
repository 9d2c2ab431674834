"""What a comparison with TRL needs and does not import it: rows, a policy and a reference in float64, either side's answer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from exptilt.data.groups import Completion, Group
from exptilt.policies.scoring import score
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.types import LogProbs, Pair

# The longer side is chosen in half of the rows, so that lengths and masks matter.
ROWS = [
    {"prompt": "the film was", "chosen": " good , I think", "rejected": " bad"},
    {"prompt": "two plus two is", "chosen": " four", "rejected": " not five , I think six"},
    {"prompt": "say hi", "chosen": " hello there , and welcome", "rejected": " hi there"},
    {"prompt": "why rain ?", "chosen": " clouds cool", "rejected": " it rains and it rains"},
    {"prompt": "go on", "chosen": " then the film went on .", "rejected": " the end"},
    {"prompt": "the end was", "chosen": " sad", "rejected": " good and bad and sad ."},
]


class Answer(NamedTuple):
    """The value of an objective on the whole batch, and its gradient by parameter."""

    value: float
    gradient: dict[str, Tensor]

    @classmethod
    def of(cls, objective: Tensor, model: nn.Module) -> Answer:
        model.zero_grad()
        objective.backward()
        return cls(objective.item(), {name: leaf.grad.double() for name, leaf in model.named_parameters()})


class World(NamedTuple):
    """A side works on `copies`, because each changes how its model runs."""

    tokenizer: PreTrainedTokenizerFast
    policy: PreTrainedModel
    reference: PreTrainedModel

    def copies(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        return copy.deepcopy(self.policy), copy.deepcopy(self.reference)

    def exchanged(self) -> World:
        """The reference as policy: the sign of every log-ratio turns."""
        return World(self.tokenizer, self.reference, self.policy)


class Ours:
    """exptilt's side: log-probabilities by `score`, packed; the gradient reaches every parameter of the policy."""

    def __init__(self, world: World) -> None:
        self._policy, self._reference = world.copies()

    def logps(self, groups: list[Group]) -> tuple[LogProbs, LogProbs]:
        with torch.no_grad():
            reference = score(self._reference, groups)
        return score(self._policy, groups, byproducts=("log_sum_squares",)), reference

    def pairs(self, groups: list[Group]) -> tuple[Pair, Pair]:
        policy, reference = (
            Pair(both.select(range(0, len(both), 2)), both.select(range(1, len(both), 2)))
            for both in self.logps(groups)
        )
        return policy, reference

    def answer(self, objective: Tensor) -> Answer:
        return Answer.of(objective, self._policy)


class ExactHead(nn.Module):
    """A model as TRL calls it, its log-probabilities in float64: TRL's own output layer computes in float32 on any model."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, *, labels: Tensor, fused_lm_head: bool, **inputs: Any) -> SimpleNamespace:
        log_p = self.model(**inputs).logits[:, :-1].log_softmax(-1)
        counted = labels[:, 1:] != -100
        log_probs = log_p.gather(-1, labels[:, 1:].clamp(min=0)[..., None]).squeeze(-1)
        return SimpleNamespace(
            log_probs=log_probs.masked_fill(~counted, 0).to(self.dtype),
            log_sum_sq_probs=(2 * log_p).logsumexp(-1),
            entropy=torch.zeros_like(log_probs),  # this and the rest: for TRL's metrics only
            mean_logits=torch.zeros_like(log_probs),
            is_top1=counted,
        )


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")  # elsewhere TRL's trainers send telemetry


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return ROWS


@pytest.fixture(scope="session")
def world() -> World:
    tokenizer = train_word_tokenizer(text for row in ROWS for text in row.values())
    config = AutoConfig.for_model(
        # No RMSNorm: transformers computes it in float32 whatever the dtype of the model.
        "gpt2",
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)  # one pair is likelier than the policy's own samples: its weight in WPO is above 1
        policy = AutoModelForCausalLM.from_config(config).double()
        for leaf in policy.parameters():
            nn.init.normal_(leaf, mean=float(leaf.ndim == 1), std=0.08)
        reference = copy.deepcopy(policy)
        with torch.no_grad():
            for leaf in reference.parameters():
                leaf.add_(torch.randn_like(leaf), alpha=0.12)
    return World(tokenizer, policy, reference)


@pytest.fixture
def ours() -> type[Ours]:
    return Ours


@pytest.fixture
def answer() -> Callable[[Tensor, nn.Module], Answer]:
    return Answer.of


@pytest.fixture
def exact() -> type[ExactHead]:
    return ExactHead


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Tensor]]]:
    """A trainer of TRL, and the batch it makes of all its rows."""

    def make(classes: tuple[Any, Any], world: World, rows: list[dict[str, Any]], **settings: Any) -> tuple[Any, Any]:
        trainer_class, config_class = classes
        policy, reference = world.copies()
        config = config_class(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(rows),
            **settings,
        )
        models = {"model": policy}
        if "ref_model" in inspect.signature(trainer_class.__init__).parameters:
            models["ref_model"] = reference
        dataset = Dataset.from_list(rows)
        trainer = trainer_class(**models, args=config, train_dataset=dataset, processing_class=world.tokenizer)
        return trainer, trainer.data_collator([trainer.train_dataset[row] for row in range(len(rows))])

    return make


@pytest.fixture
def groups_of() -> Callable[..., list[Group]]:
    """Groups of a peer's right-padded rows: K * G rows, the first completions of all G prompts first."""

    def build(ids: Tensor, attended: Tensor, counted: Tensor, completions: int) -> list[Group]:
        numbers = ids.numpy().astype(np.int32)
        inside, answered = attended.bool().numpy(), counted.bool().numpy()
        num_groups = len(ids) // completions
        groups = []
        for first in range(num_groups):
            rows = range(first, len(ids), num_groups)
            prompts = [numbers[row][inside[row] & ~answered[row]] for row in rows]
            assert all(np.array_equal(prompt, prompts[0]) for prompt in prompts)
            parts = [numbers[row][answered[row]] for row in rows]
            sides = tuple(Completion(part, np.ones(len(part), dtype=np.bool_)) for part in parts)
            groups.append(Group(id=f"row {first}", prompt=prompts[0], completions=sides))
        return groups

    return build


@pytest.fixture
def differences() -> Callable[[Answer, Answer], tuple[float, float]]:
    """Relative difference of the values, and the largest one of a parameter's gradient; `pytest -rP` shows them."""

    def compare(ours: Answer, theirs: Answer) -> tuple[float, float]:
        value = abs(ours.value - theirs.value) / abs(theirs.value)
        gradient = max(
            float((ours.gradient[name] - leaf).norm() / leaf.norm()) for name, leaf in theirs.gradient.items()
        )
        print(f"relative difference: value {value:.1e}, gradient {gradient:.1e}")
        return value, gradient

    return compare
