"""The planner: one recipe on one fleet, put together into a plan of memory, time and advice.

Memory is counted (weights on the meta device, activations on fake tensors); time is operations divided by the share of a
data sheet's peak that training reaches. Where the run would be on this machine, and fits, both come from a rehearsal; on
a GPU only the time, since there what is counted is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch

from exptilt.kinds import Kind
from exptilt.losses.from_choice import build_loss
from exptilt.planning.advice import changes_of
from exptilt.planning.arithmetic import Manner, Storage, forward_flops, memory_parts, step_flops
from exptilt.planning.devices import Fleet
from exptilt.planning.model_size import Kept, ModelSize, kept_bytes, model_size
from exptilt.planning.phases import SHARE, Costs, Plan, PlannedPhase, checks_reference, seconds_of, steps_of
from exptilt.planning.planned_rollouts import (
    critic_size,
    planned_prompts,
    reward_bytes,
    reward_models,
)
from exptilt.planning.planned_rows import PlannedRows, rows_of
from exptilt.planning.planned_steps import Steps
from exptilt.planning.probe import Rehearsal, Subject, rehearse, rehearsed
from exptilt.policies.architecture import architecture_for
from exptilt.policies.start import why_merged
from exptilt.runs.checks.familiarity import NUM_PROMPTS, chosen_groups
from exptilt.runs.disk_space import disk_space
from exptilt.runs.run_models import Setup, setup_of
from exptilt.runs.run_rollouts import rollouts_in
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.runs.token_budget import MOST_TOKENS
from exptilt.settings.critic_settings import CriticConfig
from exptilt.settings.recipe import Recipe

_LEAST_TOKENS = 256
_KEPT_ROWS = 16
"""PlannedRows on which activations are counted."""
_FLOPS = {"cpu": 4e11, "cuda": 5e14}
"""Operations of a rehearsed micro-batch, where a run's own is not smaller: seconds."""
_STEPS = 10
"""So many times that for the run's own steps, of all phases together; where three would be more, none is taken."""


_Rehearsed = tuple[Subject, Rehearsal] | None


class Planner:
    """Plans one recipe on one fleet; every part is counted once and remembered.

    Args:
        recipe: the run to plan.
        fleet: the devices it would run on.
        cpu_time: measure processor time instead of wall time, for a machine with other work.
    """

    def __init__(self, recipe: Recipe, fleet: Fleet, *, cpu_time: bool = False) -> None:
        self.recipe, self.fleet, self.cpu_time = recipe, fleet, cpu_time
        self.tokenizer = find_tokenizer(recipe.model, recipe.data)
        self.architecture = architecture_for(recipe.model, self.tokenizer)
        context = getattr(self.architecture.get_text_config(), "max_position_embeddings", None)
        self.context = context if isinstance(context, int) and context > 0 else None
        self._rows: dict[Kind, PlannedRows] = {}
        self._steps: dict[Any, Steps] = {}
        self._reading = 0
        self._kept: dict[Any, tuple[ModelSize, Kept]] = {}

    def plan(self) -> Plan:
        """The plan; time is measured by a rehearsal if the fleet is this machine and the run fits."""
        recipe = self.recipe
        parts = [recipe] if recipe.sft is None else [recipe.sft_recipe(), recipe]
        tokens = [self.micro_batch(part) for part in parts]
        memories = [self.memory(part, count) for part, count in zip(parts, tokens, strict=True)]
        size, kept = self.counted(recipe)
        notes, phases = self._notes(kept, parts), list[PlannedPhase]()
        if self.fleet.here and not all(self._fits(memory) for memory in memories):
            notes.append("time was not measured, because it does not fit")
        else:
            found = [self._rehearsed(part, count) for part, count in zip(parts, tokens, strict=True)]
            phases = [self._phase(part, *one) for part, one in zip(parts, zip(tokens, found, strict=True), strict=True)]
            memories = [self._with_measured_rest(*one) for one in zip(memories, tokens, found, strict=True)]
        made = Plan(
            output=recipe.output,
            fleet=self.fleet,
            size=size,
            parallel=self.setup(recipe).parallel.kind,
            products=str(self.setup(recipe).products).removeprefix("torch."),
            batch_tokens=tokens[-1],
            memory=max(memories, key=lambda memory: sum(memory.values())),
            phases=phases,
            disk=sum(self._disk(part) for part in parts) + self._merged_base(size),
            notes=notes,
        )
        return made if made.fits else replace(made, advice=self.advice())

    def rows(self, recipe: Recipe) -> PlannedRows:
        """PlannedRows of the recipe, as its objective's kind reads them."""
        kind, process = recipe.loss.kind, psutil.Process()
        if kind not in self._rows:
            before = process.memory_info().rss
            online = recipe.rollout is not None
            self._rows[kind] = (
                planned_prompts(recipe, self.tokenizer, self.context)
                if online
                else rows_of(recipe.data, self.tokenizer, kind, self.context)
            )
            self._reading = max(self._reading, process.memory_info().rss - before)
        return self._rows[kind]

    def setup(self, recipe: Recipe) -> Setup:
        """The setup of the run's models on this fleet."""
        return setup_of(recipe, build_loss(recipe.loss), self.fleet.count, on_gpu=self._gpu)

    def weights(self, recipe: Recipe) -> torch.dtype:
        """The dtype of the model's weights in training."""
        if recipe.model.dtype == "bfloat16":
            return torch.bfloat16
        own = getattr(self.architecture, "dtype", None) if recipe.model.path is not None else torch.float32
        keeps = self.setup(recipe).widens or recipe.model.dtype == "float32"
        return torch.float32 if keeps or own is None else own

    def counted(self, recipe: Recipe) -> tuple[ModelSize, Kept]:
        """Counts of the model's weights, and of the bytes that backward keeps."""
        weights, products = self.weights(recipe), self.setup(recipe).products
        key = (recipe.adapter, weights, products, recipe.loss.kind)
        if key not in self._kept:
            rows = list(self.rows(recipe).train[:_KEPT_ROWS])
            head = self.setup(recipe).head
            kept = kept_bytes(
                self.architecture, rows, adapter=recipe.adapter, weights=weights, products=products, kind=head
            )
            self._kept[key] = (model_size(self.architecture, recipe.adapter, head), kept)
        return self._kept[key]

    def micro_batch(self, recipe: Recipe) -> int:
        """Tokens of the largest micro-batch: the recipe's number or the one auto would find, at most a whole step."""
        steps = self.steps(recipe)
        per_device = math.ceil(steps.largest / self.fleet.count)
        limit = recipe.batch.limit or per_device
        if recipe.batch.tokens == "auto":
            limit = max(_LEAST_TOKENS, self.largest(recipe))
        return max(min(limit, per_device), steps.longest)

    def largest(self, recipe: Recipe) -> int:
        """The largest token budget that fits; 0 or less if none does."""
        small, large = (
            sum(self.memory(recipe, n, micro_batches=2).values()) for n in (_LEAST_TOKENS, 2 * _LEAST_TOKENS)
        )
        room = 0.85 * self.fleet.device.memory - small
        most = MOST_TOKENS["cuda" if self._gpu else "cpu"]
        found = _LEAST_TOKENS + int(room / ((large - small) / _LEAST_TOKENS))
        return min(found // _LEAST_TOKENS * _LEAST_TOKENS, most)

    def memory(self, recipe: Recipe, tokens: int, micro_batches: float | None = None) -> dict[str, float]:
        """Bytes on each device, by purpose."""
        size, kept = self.counted(recipe)
        setup = self.setup(recipe)
        storage = Storage(
            weights=self.weights(recipe),
            products=setup.products,
            four_bits=recipe.model.quantize == "nf4",
            optimizer_copies=2 if recipe.optim.name == "adamw" else 1,
            shards=self.fleet.count if setup.parallel.kind == "fsdp" else 1,
            offload=recipe.parallel.cpu_offload and self._gpu,
            reference=setup.holds_second_model,
            gpu=self._gpu,
        )
        if micro_batches is None:
            micro_batches = self.steps(recipe).largest / self.fleet.count / tokens
        parts = memory_parts(
            size, kept, storage, tokens=tokens, micro_batches=micro_batches, checkpointing=setup.checkpointing
        )
        if reward_models(recipe):
            parts["reward model"] = reward_bytes(recipe, self.tokenizer)
        critic = critic_size(recipe, self.tokenizer)
        if (
            critic is not None
        ):  # trained whole: weights, gradients and two numbers of the optimizer, beside the policy's
            parts["critic"] = 4 * 4.0 * critic.total / storage.shards
        return parts

    def advice(self) -> list[str]:
        """Changes that make the run fit, each with its peak; the cheapest first."""
        found, room = [], SHARE * self.fleet.device.memory
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

    def steps(self, recipe: Recipe) -> Steps:
        """The first steps of the run."""
        key = (recipe.loss.name, recipe.batch, recipe.train.epochs, recipe.train.max_steps)
        if key not in self._steps:
            self._steps[key] = Steps.of(recipe, self.rows(recipe))
        return self._steps[key]

    def _fits(self, memory: dict[str, float]) -> bool:
        return sum(memory.values()) <= SHARE * self.fleet.device.memory

    def _rehearsed(self, recipe: Recipe, tokens: int) -> _Rehearsed:
        if not self.fleet.here:
            return None
        subject = self._subject(recipe, tokens)
        return subject, rehearse(subject)

    def _with_measured_rest(self, counted: dict[str, float], tokens: int, rehearsed: _Rehearsed) -> dict[str, float]:
        """The counted memory; on a CPU, activations are the measured peak less the counted rest."""
        if rehearsed is None or self._gpu:
            return counted
        subject, found = rehearsed
        kept = {name: counted[name] for name in ("weights", "gradients", "optimizer", "reference model")}
        apart = {name: counted[name] for name in ("reward model",) if name in counted}  # not there in the rehearsal
        rest = max(0.0, found.peak_with(tokens, subject) - sum(kept.values()))
        return kept | apart | {"activations": rest, "rows, and what reads them": float(self._reading)}

    def _phase(self, recipe: Recipe, tokens: int, rehearsed: _Rehearsed) -> PlannedPhase:
        rows, cut, size = self.rows(recipe), self.steps(recipe), self.counted(recipe)[0]
        setup = self.setup(recipe)
        load, manner, steps = cut.load, self._manner(recipe), steps_of(recipe, rows.num_train)
        if rehearsed is not None:
            costs = Costs.measured(size, manner, *rehearsed, self.fleet.count)
        else:
            shards = self.fleet.count if setup.parallel.kind == "fsdp" else 1
            # The optimizer reads weight, gradient and two moments, and writes all but the gradient.
            moved = (4 + 3) * self.weights(recipe).itemsize * size.trained / shards
            costs = Costs.of_table(size, self.fleet, setup.products, moved=moved)
        micro_batches, flops = max(1.0, cut.micro_batches(tokens) / self.fleet.count), step_flops(size, load, manner)
        step = micro_batches * costs.step.start + flops * costs.step.slope + costs.update
        critic = critic_size(recipe, self.tokenizer)
        further = {}
        if critic is not None:  # on the same micro-batches, and once without a graph over every rollout
            of_critic = step_flops(critic, load, Manner(checkpointing=setup.checkpointing))
            valued = forward_flops(critic, load) / rollouts_in(recipe).epochs
            seconds = micro_batches * costs.step.start + (of_critic + valued) * costs.step.slope + costs.update
            further = {"critic": steps * seconds}
        return PlannedPhase(
            name="supervised phase" if recipe.loss.kind.imitates else recipe.loss.name,
            rows=rows.num_train,
            steps=steps,
            tokens=load.tokens,
            micro_batches=micro_batches,
            flops=flops,
            step_seconds=step,
            seconds=seconds_of(recipe, costs, steps * step, rows, load) | further,
        )

    def _subject(self, recipe: Recipe, tokens: int) -> Subject:
        """The subject of the rehearsal: steps of the run, or smaller ones where those would take long."""
        steps, manner, device = self.steps(recipe), self._manner(recipe), "cuda" if self._gpu else "cpu"
        each = step_flops(self.counted(recipe)[0], steps.load, manner) / steps.load.tokens
        sample = int(min(tokens, max(_LEAST_TOKENS, _FLOPS[device] / each)))
        most = int(_STEPS * _FLOPS[device] / each) // (1 if self.recipe.sft is None else 2)
        large = steps.rehearsed(tokens, most, sample)
        asked = chosen_groups(self.rows(recipe).train, 1, self.context) if checks_reference(recipe) else []
        asked = asked if recipe.rollout is None else list(self.rows(recipe).train[:NUM_PROMPTS])
        return Subject(
            architecture=self.architecture,
            setup=rehearsed(self.setup(recipe)),
            weights=self.weights(recipe),
            device="cuda" if self._gpu else "cpu",
            optimizer=recipe.optim,
            loss=build_loss(recipe.loss),
            small=[[groups] for groups in steps.samples(sample // 4)],
            large=large,
            accumulates=steps.largest > tokens * self.fleet.count and all(len(step) == 1 for step in large),
            prompts=[group.prompt for group in asked[:NUM_PROMPTS]],
            threads=torch.get_num_threads(),
            cpu_time=self.cpu_time,
        )

    def _manner(self, recipe: Recipe) -> Manner:
        return Manner.of(self.setup(recipe), build_loss(recipe.loss))

    def _disk(self, recipe: Recipe) -> float:
        size, steps = self.counted(recipe)[0], steps_of(recipe, self.rows(recipe).num_train)
        trained = torch.float32 if recipe.adapter is not None else self.weights(recipe)
        space = disk_space(
            recipe, (size.total, size.trained), steps, trained=trained.itemsize, saved=self._saved.itemsize
        )
        critic = critic_size(recipe, self.tokenizer)
        if critic is not None:
            own = replace(recipe, adapter=None, optim=(recipe.critic or CriticConfig()).optim)
            space += disk_space(own, (critic.total, critic.trained), steps, trained=4, saved=self._saved.itemsize)
        return space

    @property
    def _saved(self) -> torch.dtype:
        """The dtype of the model folder of a full model: its own."""
        own = getattr(self.architecture, "dtype", None) if self.recipe.model.path is not None else None
        return torch.float32 if own is None else own

    def _merged_base(self, size: ModelSize) -> float:
        """Bytes of the base that a new adapter gets of its own where the one it starts from cannot stay beside it."""
        return size.total * self._saved.itemsize if why_merged(self.recipe.model, self.recipe.adapter) else 0.0

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
        if self.recipe.rollout is not None:
            notes.append(
                "completions are taken to have rollout.law.max_new_tokens tokens; rewards take time of their own"
            )
        notes.append("the peak is that of training; samples drawn for evaluation are not in it")
        if not self._gpu:
            notes.append(
                "and of its first steps; 40 steps of different lengths were seen to take half as much again as 8"
            )
        if self.fleet.count > 1:
            notes.append("exchange between devices is taken to hide behind work; on slow links it does not")
        return notes
