"""The models of a run, made ready in the only right order.

    weights -> adapter -> fingerprint -> device -> self-check -> precision -> checkpointing, compile -> shards

The fingerprint is taken while weights are whole; whether packed rows are right is asked before anything is wrapped. Weights
that will be sharded stay pages of their files until then (`policies/mapped_weights.py`), and are widened and moved as they are cut.
`Setup` holds every decision as plain values, so that a plan can rehearse it with random weights in another process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from exptilt.errors import ModelError
from exptilt.losses import Loss
from exptilt.policies.adapters import with_adapter
from exptilt.policies.device import is_quantized, model_on_device
from exptilt.policies.engine.balance import Balance, asks
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.engine.inside import set_precision
from exptilt.policies.engine.self_check import packable
from exptilt.policies.fingerprint import fingerprint, identity_of
from exptilt.policies.mapped_weights import as_if_float32, first_layers, frozen_copy, owning
from exptilt.policies.model_heads import LANGUAGE_HEAD, SCORE_HEAD, TRAINED_SCORE, ModelHead, head_of
from exptilt.policies.outgoing import check_outgoing
from exptilt.policies.policy import Policy
from exptilt.policies.reference.other import load_reference
from exptilt.policies.reference.references import START, AdapterOffReference, LiveReference
from exptilt.policies.reward_scorer import RewardScorer
from exptilt.policies.scorer import ModelScorer, Reference
from exptilt.policies.sharding import blocks_of, shard
from exptilt.policies.start import Start, load_start
from exptilt.processes.world import World, local_device
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, ReferenceConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import ParallelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The setup of a run's models: every decision that follows from a recipe and its objective."""

    head: ModelHead = LANGUAGE_HEAD
    """A policy's, or that of a reward model."""
    adapter: AdapterConfig | None = None
    products: torch.dtype = torch.float32
    """Arithmetic of forward and backward."""
    widens: bool = False
    """Whether weights are held in float32, wider than they were loaded."""
    checkpointing: bool = False
    compiles: bool = False
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Settings of parallelism, with `auto` resolved by `setup_of` from the number of processes."""
    reference: Literal["table", "other", "adapter off", "copy"] = "table"
    """The form of the reference: a table of log-probabilities, another model, or a model made of the policy."""
    needs_distributions: bool = False
    """Whether the objective compares whole distributions with the reference's."""
    moves: bool = False
    """Whether the reference follows the policy."""
    seed: int = 0

    @property
    def widens_late(self) -> bool:
        """Whether weights are widened as they are sharded, so that no process ever holds them whole. DoRA reads them before."""
        dora = self.adapter is not None and self.adapter.dora
        return self.widens and self.parallel.kind == "fsdp" and not dora

    @property
    def holds_second_model(self) -> bool:
        """Tell whether a second model beside the policy is in memory; the policy with its adapter off is no second model."""
        return self.reference in ("other", "copy")


HEADS = {"logps": LANGUAGE_HEAD, "rewards": SCORE_HEAD}
"""The head of a model that is to be trained, by what losses of its kind read."""
TRAINED = {"logps": LANGUAGE_HEAD, "rewards": TRAINED_SCORE}
"""The head of a model that was trained."""


def setup_of(recipe: Recipe, loss: Loss, world_size: int = 1, *, on_gpu: bool | None = None) -> Setup:
    """Decide how the models of a recipe and its objective are set up, on this device or, for a plan, with or without GPU."""
    moves = bool(recipe.reference.move_every) and bool(loss.needs_reference)
    is_asked = bool(recipe.train.eval_samples) or recipe.rollout is not None  # about texts that nobody knows beforehand
    needs_distributions = loss.needs_distributions
    products = products_of(recipe.train, recipe.model, on_gpu)
    return Setup(
        head=HEADS[loss.kind.reads],
        adapter=recipe.adapter,
        products=products,
        widens=trains_in_float32(recipe.model, recipe.adapter, products),
        checkpointing=recipe.train.gradient_checkpointing,
        compiles=recipe.train.compile,
        parallel=recipe.parallel.resolved(world_size),
        reference=_held_as(recipe, held=needs_distributions or is_asked or moves, moves=moves),
        needs_distributions=needs_distributions,
        moves=moves,
        seed=recipe.seed,
    )


def _held_as(recipe: Recipe, *, held: bool, moves: bool) -> Literal["table", "other", "adapter off", "copy"]:
    if recipe.reference.model is not None:
        return "other"
    if not held:
        return "table"
    adapter = recipe.adapter
    is_new = adapter is not None and adapter.path is None and not adapter.modules_to_save
    return "adapter off" if is_new and not moves else "copy"


@dataclass(frozen=True)
class Models:
    """The trained model before step 1, and the reference if it must be held as a model."""

    policy: Any
    """The model that is trained: a policy or a reward model."""
    weights: str
    """Fingerprint of what it computes before step 1."""
    dtype: torch.dtype
    """Type of the weights as they were loaded, in which they are saved."""
    held: Reference | None = None
    """The reference as a model; None where a table of log-probabilities is enough."""

    def scorer(self, setup: Setup, loss: Loss) -> ModelScorer:
        """The trained model as a scorer for the loop."""
        if head_of(self.policy) is SCORE_HEAD:
            return RewardScorer(self.policy)
        against = self.held.model if self.held is not None and setup.needs_distributions else None
        return Policy(self.policy, loss.byproducts, against)


def models_of(
    model: ModelConfig, reference: ReferenceConfig, setup: Setup, tokenizer: Any, world: World | None = None
) -> Models:
    """Load and set up all models that training needs.

    Args:
        model: settings that name the weights.
        reference: names another reference, if there is one.
        setup: the setup to bring them into.
        tokenizer: tokenizer of the model.
        world: the processes that share them.
    """
    start = load_start(model, setup.adapter, tokenizer, seed=setup.seed, head=setup.head)
    other = None if reference.model is None else load_reference(model, reference.model, tokenizer)
    check = partial(check_outgoing, tokenizer=tokenizer, trust_remote_code=model.trust_remote_code)
    return set_up(start, setup, other=other, source=reference.model or START, check=check)


def set_up(
    start: Start,
    setup: Setup,
    *,
    other: Any = None,
    source: str = START,
    check: Callable[[Any], None] | None = None,
) -> Models:
    """Make weights ready to train: adapter, precision, device, shards; and the reference beside them.

    Args:
        start: the model as loaded, whole and on the CPU unless it is quantised.
        setup: the setup to bring them into.
        other: another model as the reference, whole and on the CPU.
        source: origin of the reference, in words.
        check: looks at the policy while it is whole, before it is moved, wrapped or sharded.
    """
    base = start.model
    if setup.widens and not setup.widens_late and not is_quantized(base):
        base = base.float()
    weights, policy = identity_of(base, as_float32=setup.widens_late), base
    if setup.adapter is not None:
        policy = _adapted(base, setup.adapter, setup, start.revision)
        weights = weights if setup.adapter.path is None else identity_of(policy, as_float32=setup.widens_late)
    if check is not None:
        check(policy)
    held: Reference | None = None
    if setup.reference == "adapter off":
        held = AdapterOffReference(policy, weights, source)
    elif setup.reference == "copy":
        held = LiveReference(_frozen(policy, setup), weights, source)
    elif setup.reference == "other":
        held = LiveReference(_made_ready(other, setup), fingerprint(other), source)
    return Models(_made_ready(policy, setup, trained=True, widens=setup.widens_late), weights, start.dtype, held)


def _frozen(policy: Any, setup: Setup) -> Any:
    """The policy as it is now, as a reference with weights of its own."""
    if setup.parallel.kind != "fsdp":
        return _made_ready(copy.deepcopy(policy).eval().requires_grad_(False), setup)
    return owning(_made_ready(frozen_copy(policy), setup, widens=setup.widens_late))


def _adapted(base: Any, adapter: AdapterConfig, setup: Setup, revision: str | None) -> Any:
    """A base with its adapter, whose numbers do not depend on when the base is widened."""
    if not setup.widens_late:
        return with_adapter(base, adapter, seed=setup.seed, revision=revision)
    copied = [*adapter.modules_to_save, *(name.removesuffix(".weight") for name in head_of(base).made)]
    with as_if_float32(base, but=copied):
        return with_adapter(base, adapter, seed=setup.seed, revision=revision)


def _made_ready(model: Any, setup: Setup, *, trained: bool = False, widens: bool = False) -> Any:
    """Move a model to its device, check it, and wrap it according to the setup."""
    sharded = setup.parallel.kind == "fsdp"
    if sharded and is_quantized(model):
        raise ModelError("weights in few bits cannot be sharded; set parallel.kind=ddp")
    if sharded:
        packable(model, model_on_device(first_layers(model)))
    else:
        model = model_on_device(model)
        packable(model)
    set_precision(model, setup.products)
    inner = causal_lm(model)
    if trained and setup.checkpointing:
        newer = getattr(inner, "activation_checkpointing_enable", None)  # its name since transformers 5.20
        (newer or inner.gradient_checkpointing_enable)({"use_reentrant": False})
    if setup.compiles:
        for block in blocks_of(model):
            block.compile(dynamic=True)
    return shard(model, setup.parallel, setup.products, widens=widens) if sharded else model


def start_model(model: ModelConfig, adapter: AdapterConfig | None, tokenizer: Any, seed: int = 0) -> Any:
    """Load the weights a run starts from as one model on this process's device, to score and sample but not to train."""
    start = load_start(model, adapter, tokenizer, seed=seed).model
    if adapter is not None and adapter.path is not None:
        start = with_adapter(start, adapter).eval()
    return model_on_device(start)


def reference_model(recipe: Recipe, tokenizer: Any) -> Any:
    """Load the reference as one model on this process's device: the recipe's, else the weights the run starts from."""
    if recipe.reference.model is not None:
        return model_on_device(load_reference(recipe.model, recipe.reference.model))
    return start_model(recipe.model, recipe.adapter, tokenizer, recipe.seed).eval().requires_grad_(False)


def products_of(train: TrainConfig, model: ModelConfig, on_gpu: bool | None = None) -> torch.dtype:
    """The precision of forward and backward: the recipe's, else the one that suits the device (default: this one) and weights."""
    if train.precision != "auto":
        return torch.bfloat16 if train.precision == "bfloat16" else torch.float32
    if on_gpu is None:
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu or model.dtype == "bfloat16" else torch.float32


def trains_in_float32(model: ModelConfig, adapter: AdapterConfig | None, products: torch.dtype) -> bool:
    """Tell whether weights get a float32 copy: trained weights, to keep small updates, and weights of float32 products."""
    if model.quantize != "none" or model.dtype == "bfloat16":
        return False
    return products == torch.float32 or (adapter is None and model.dtype == "auto")


def in_words(models: Models, setup: Setup, world: World) -> str:
    """One line for people about the trained weights and their precision."""
    model = models.policy
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    products = str(setup.products).removeprefix("torch.")
    share = "all" if trained == total else f"{trained / 1e6:.3g} M of"
    processes = "" if world.size == 1 else f", {world.size} processes ({setup.parallel.kind})"
    note = "; bfloat16 weights without a float32 copy lose small updates" if "bfloat16" in dtypes else ""
    note += _router_note(model)
    return (
        f"training {share} {total / 1e6:.3g} M weights in {' and '.join(sorted(dtypes))}, products in {products}, "
        f"on {local_device().type}{processes}{note}"
    )


def _router_note(model: Any) -> str:
    balance = Balance.of(model)
    if balance is not None:
        return f"; the balance loss of the experts' router is added with coefficient {balance.coefficient:g}"
    if asks(model):
        return (
            "; the balance loss of the experts' router, which the model's config asks for, is not known and not added"
        )
    return ""
