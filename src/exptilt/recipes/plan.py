"""`exptilt plan`: the memory and time of a run before anything is spent.

Memory is counted (weights on the meta device, activations on fake tensors). Time is measured by a probe where the run
would be on this machine, and else operations divided by the share of a data sheet's peak that training reaches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.recipes.assembly import precision_for, wants_float32
from exptilt.recipes.budget import MOST_TOKENS
from exptilt.recipes.devices import Fleet
from exptilt.recipes.plan_advice import changes_of
from exptilt.recipes.plan_data import Rows, rows_of
from exptilt.recipes.plan_model import Kept, ModelSize, architecture_for, kept_bytes, model_size
from exptilt.recipes.plan_probe import Clock, Costs, Subject, measured_costs
from exptilt.recipes.plan_time import Phase, seconds_of, steps_of
from exptilt.recipes.plan_work import Load, Manner, Storage, forward_flops, memory_parts, step_flops
from exptilt.recipes.recipe import Recipe
from exptilt.recipes.vocabulary import find_tokenizer
from exptilt.train.objective import Objective

_SHARE = 0.95
"""Of a device's memory that a plan may fill."""
_LEAST_TOKENS = 256
_KEPT_ROWS = 16
"""Rows on which activations are counted."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would take."""

    output: str
    fleet: Fleet
    size: ModelSize
    parallel: str
    products: str
    batch_tokens: int
    """Of a micro-batch: the recipe's, or what auto would find."""
    memory: dict[str, float]
    """Bytes on each device at the peak."""
    phases: list[Phase]
    disk: float
    """Bytes of checkpoints and model."""
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Bytes on each device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether each device has that much."""
        return self.peak <= _SHARE * self.fleet.device.memory

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(sum(phase.seconds.values()) for phase in self.phases)


class Planner:
    """One recipe on one fleet; its parts are counted once."""

    def __init__(self, recipe: Recipe, fleet: Fleet, clock: Clock = time.perf_counter) -> None:
        self.recipe, self.fleet, self.clock = recipe, fleet, clock
        self.tokenizer = find_tokenizer(recipe, keep=False)
        self.architecture = architecture_for(recipe.model, self.tokenizer)
        context = getattr(self.architecture.get_text_config(), "max_position_embeddings", None)
        self.context = context if isinstance(context, int) and context > 0 else None
        self._rows: dict[str, Rows] = {}
        self._kept: dict[Any, tuple[ModelSize, Kept]] = {}

    def plan(self) -> Plan:
        """Count, and measure where the run would be here."""
        recipe = self.recipe
        parts = [recipe] if recipe.sft is None else [recipe.sft_recipe(), recipe]
        tokens = [self.micro_batch(part) for part in parts]
        memories = [self.memory(part, count) for part, count in zip(parts, tokens, strict=True)]
        worst = max(range(len(parts)), key=lambda place: sum(memories[place].values()))
        size, kept = self.counted(recipe)
        phases = [self._phase(part, count) for part, count in zip(parts, tokens, strict=True)]
        made = Plan(
            output=recipe.output,
            fleet=self.fleet,
            size=size,
            parallel=self.kind(recipe),
            products=str(self.products(recipe)).removeprefix("torch."),
            batch_tokens=tokens[-1],
            memory=memories[worst],
            phases=phases,
            disk=self._disk(size),
            notes=self._notes(kept, parts),
        )
        return made if made.fits else replace(made, advice=self.advice())

    def rows(self, recipe: Recipe) -> Rows:
        """Of the recipe's kind, read once."""
        kind = recipe.loss.kind
        if kind not in self._rows:
            self._rows[kind] = rows_of(recipe.data, self.tokenizer, kind, self.context)
        return self._rows[kind]

    def products(self, recipe: Recipe) -> torch.dtype:
        """The arithmetic of forward and backward on this fleet."""
        return precision_for(recipe, on_gpu=self._gpu)

    def weights(self, recipe: Recipe) -> torch.dtype:
        """Of the model as it is trained."""
        if recipe.model.dtype == "bfloat16":
            return torch.bfloat16
        own = getattr(self.architecture, "dtype", None) if recipe.model.path is not None else torch.float32
        keeps = wants_float32(recipe, self.products(recipe)) or recipe.model.dtype == "float32"
        return torch.float32 if keeps or own is None else own

    def kind(self, recipe: Recipe) -> str:
        """How the devices share the work."""
        if recipe.parallel.kind == "auto":
            return "ddp" if self.fleet.count > 1 else "none"
        return recipe.parallel.kind

    def counted(self, recipe: Recipe) -> tuple[ModelSize, Kept]:
        """The model's weights, and what backward keeps."""
        weights, products = self.weights(recipe), self.products(recipe)
        key = (recipe.adapter, weights, products, recipe.loss.kind)
        if key not in self._kept:
            rows = list(self.rows(recipe).train[:_KEPT_ROWS])
            kept = kept_bytes(self.architecture, rows, adapter=recipe.adapter, weights=weights, products=products)
            self._kept[key] = (model_size(self.architecture, recipe.adapter), kept)
        return self._kept[key]

    def micro_batch(self, recipe: Recipe) -> int:
        """Tokens of a micro-batch: what the recipe says, or what auto would find; never more than a step has."""
        per_device = math.ceil(self._step_load(recipe).tokens / self.fleet.count)
        if recipe.batch.tokens != "auto":
            return min(recipe.batch.limit or per_device, per_device)
        return min(max(_LEAST_TOKENS, self.largest(recipe)), per_device)

    def largest(self, recipe: Recipe) -> int:
        """The token budget that would just fit; 0 or less if none does."""
        small, large = (
            sum(self.memory(recipe, n, micro_batches=2).values()) for n in (_LEAST_TOKENS, 2 * _LEAST_TOKENS)
        )
        room = 0.85 * self.fleet.device.memory - small
        most = MOST_TOKENS["cuda" if self._gpu else "cpu"]
        found = _LEAST_TOKENS + int(room / ((large - small) / _LEAST_TOKENS))
        return min(found // _LEAST_TOKENS * _LEAST_TOKENS, most)

    def memory(self, recipe: Recipe, tokens: int, micro_batches: float | None = None) -> dict[str, float]:
        """Bytes on each device, by what they are for."""
        size, kept = self.counted(recipe)
        loss = recipe.loss
        moves = bool(recipe.reference.move_every) and loss.needs_reference
        held = ("divergence" in loss.byproducts and recipe.adapter is None) or moves
        storage = Storage(
            weights=self.weights(recipe),
            products=self.products(recipe),
            four_bits=recipe.model.quantize == "nf4",
            optimizer_copies=2 if recipe.optim.name == "adamw" else 1,
            shards=self.fleet.count if self.kind(recipe) == "fsdp" else 1,
            offload=recipe.parallel.cpu_offload and self._gpu,
            reference=bool(held),
            gpu=self._gpu,
        )
        if micro_batches is None:
            micro_batches = self._step_load(recipe).tokens / self.fleet.count / tokens
        checkpointing = recipe.train.gradient_checkpointing
        return memory_parts(
            size, kept, storage, tokens=tokens, micro_batches=micro_batches, checkpointing=checkpointing
        )

    def advice(self) -> list[str]:
        """What to change so that it fits, each with its number; the changes that cost least come first."""
        found, room = [], _SHARE * self.fleet.device.memory
        for keys, change in changes_of(self.recipe, self.fleet.count):
            tokens = self.micro_batch(change)
            peak, smaller = sum(self.memory(change, tokens).values()), self.largest(change)
            if peak > room and _LEAST_TOKENS <= smaller < tokens:
                keys, peak = f"{keys} batch.tokens={smaller}".strip(), sum(self.memory(change, smaller).values())
            if keys and peak <= room:
                found.append(f"{keys}: {peak / 1e9:.3g} GB")
        return found or [f"nothing known makes it fit {self.fleet.device.name}; use more or larger devices"]

    @property
    def _gpu(self) -> bool:
        return not self.fleet.device.name.startswith("CPU")

    def _step_load(self, recipe: Recipe) -> Load:
        """Of one optimizer step, over all devices."""
        rows = self.rows(recipe)
        size = min(recipe.batch.size, rows.num_train)
        return Load.of(self._prepared(recipe)).times(size / len(self._prepared(recipe)))

    def _prepared(self, recipe: Recipe) -> Sequence[Group]:
        """The sample as the objective wants it scored."""
        rows = list(self.rows(recipe).train)
        return Objective(recipe.loss).prepare(rows) if "mismatched" in recipe.loss.inputs else rows

    def _phase(self, recipe: Recipe, tokens: int) -> Phase:
        rows, load, (size, _) = self.rows(recipe), self._step_load(recipe), self.counted(recipe)
        manner = Manner(
            checkpointing=recipe.train.gradient_checkpointing,
            coupled=recipe.loss.couples_batch,
            live_reference="divergence" in recipe.loss.byproducts or bool(recipe.reference.move_every),
        )
        steps = steps_of(recipe, rows.num_train)
        micro_batches = math.ceil(load.tokens / self.fleet.count / tokens)
        costs = self._costs(recipe, micro_batches, manner)
        step = costs.step.seconds(load.tokens, micro_batches) + costs.update * size.trained
        return Phase(
            name="supervised phase" if recipe.loss.name == "sft" else recipe.loss.name,
            rows=rows.num_train,
            steps=steps,
            tokens=load.tokens,
            micro_batches=micro_batches,
            flops=step_flops(size, load, manner),
            step_seconds=step,
            seconds=seconds_of(recipe, costs, steps * step, rows, load),
        )

    def _costs(self, recipe: Recipe, micro_batches: int, manner: Manner) -> Costs:
        """Measured here, or from the table; for all devices together."""
        products, weights = self.products(recipe), self.weights(recipe)
        if self.fleet.here:
            subject = Subject(
                architecture=self.architecture,
                adapter=recipe.adapter,
                weights=weights,
                products=products,
                device=torch.device("cuda" if self._gpu else "cpu"),
                checkpointing=manner.checkpointing,
                optimizer=recipe.optim,
                objective=Objective(recipe.loss),
            )
            found = measured_costs(subject, self._prepared(recipe), self.counted(recipe)[0], self.clock)
            return found.shared(self.fleet.count)
        size, _ = self.counted(recipe)
        load, rate = self._step_load(recipe), self.fleet.device.rate(products) * self.fleet.count
        shards = self.fleet.count if self.kind(recipe) == "fsdp" else 1
        moved = (
            4 * (3 + 2 * 2) * weights.itemsize / 4
        )  # reads weight, gradient, two moments; writes all but the gradient
        return Costs.of_rates(
            step_flops(size, load, manner) / rate / load.tokens,
            forward_flops(size, load) / rate / load.tokens,
            moved / self.fleet.device.bandwidth / shards,
            reading=size.total * 2 / self.fleet.device.bandwidth,
            layers=size.layers,
        )

    def _disk(self, size: ModelSize) -> float:
        """Checkpoints with weights and optimizer, and the model."""
        copies = self.recipe.train.keep_checkpoints * (2 if self.recipe.sft is not None else 1)
        return 4.0 * (copies * (size.total + 2 * size.trained) + size.total)

    def _notes(self, kept: Kept, parts: Sequence[Recipe]) -> list[str]:
        notes = [f"{self.fleet.device.name}: {self.fleet.device.note}"]
        for rows in (self.rows(part) for part in parts[-1:]):
            if rows.sampled:
                notes.append(f"lengths are those of the first {len(rows.train)} of {rows.num_train} rows")
            if rows.refusal:
                notes.append(f"a run would refuse these data: {rows.refusal}; see `exptilt doctor`")
        if not kept.counted:
            notes.append(
                "activations are by a formula for dense models: this architecture could not be run without memory"
            )
        if self.fleet.count > 1:
            notes.append("exchange between devices is taken to hide behind work; on slow links it does not")
        return notes
