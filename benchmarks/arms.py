"""One program of `against_trl.py`, in a process of its own: it takes a training step when it is told to, and says what it cost.

python benchmarks/arms.py exptilt setting.json      (started by against_trl.py)
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from turns import Turns

from exptilt.policies.scorer import ScorerFunction

LEARNING_RATE = 1e-5
ROWS = 8192


def trl_arm(setting: dict[str, Any], turns: Turns) -> None:
    """TRL's own trainer and loop; `tuned` is what its documentation offers to make it fast."""
    os.environ["CI"] = "1"  # else it sends telemetry
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOTrainer

    class TakeTurns(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.ready()
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done()
            turns.wait()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            turns.loss = logs.get("loss", turns.loss)

    turns.imported()
    folder = setting["folder"]
    options: dict[str, Any] = {"dtype": getattr(torch, setting["weights"])}
    if setting["device"] == "cuda" and setting["flash"]:
        options["attn_implementation"] = "flash_attention_2"
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", **options)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
    if setting["device"] == "cuda":
        model = model.cuda()
    turns.loaded()
    trainer = DPOTrainer(
        model=model,
        args=_arguments(setting),
        train_dataset=load_dataset("json", data_files=f"{folder}/rows.jsonl", split="train"),
        processing_class=tokenizer,
        callbacks=[TakeTurns()],
        peft_config=_lora(setting["rank"]) if setting["rank"] else None,
    )
    first = setting["first_row"]
    seen = [trainer.train_dataset[0][name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    if seen != first:
        raise SystemExit("TRL's tokens are not exptilt's")
    trainer.train()


def _arguments(setting: dict[str, Any]) -> Any:
    """TRL's defaults, and with `tuned` what its documentation offers to make it fast."""
    from trl import DPOConfig

    micro = setting["micro_batch"]
    tuned: dict[str, Any] = {}
    if setting["tuned"]:
        tuned = {
            "precompute_ref_log_probs": True,
            "precompute_ref_batch_size": setting["groups"],
            "gradient_checkpointing": False,
            "train_sampling_strategy": "batch_rebalance" if setting["rebalance"] else "sequential",
        }
    return DPOConfig(
        output_dir=f"{setting['folder']}/trl",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=setting["groups"] // micro,
        max_length=None,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_steps=setting["steps"],
        bf16=setting["precision"] == "bfloat16",
        use_cpu=setting["device"] == "cpu",
        dataloader_pin_memory=setting["device"] == "cuda",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"train_sampling_strategy": "sequential"} | tuned),
    )


def _lora(rank: int) -> Any:
    """As exptilt's adapter: every linear layer but the head, alpha twice the rank, no dropout."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")


def exptilt_arm(setting: dict[str, Any], turns: Turns) -> None:
    """What `exptilt train` does between its checkpoints."""
    import torch
    from workloads import WORKLOADS, rows_of

    from exptilt.data.batching import Batches
    from exptilt.losses import DPO, PlackettLuce
    from exptilt.policies.adapters import with_adapter
    from exptilt.policies.engine.inside import set_precision
    from exptilt.policies.engine.product import prefer_onednn
    from exptilt.policies.models import load_model
    from exptilt.policies.policy import Policy
    from exptilt.policies.scoring import score_all
    from exptilt.processes.allocator import keep_freed
    from exptilt.processes.world import World
    from exptilt.settings.data_settings import BatchConfig
    from exptilt.settings.model_settings import AdapterConfig, ModelConfig
    from exptilt.settings.training_settings import OptimConfig
    from exptilt.training.objective import Objective
    from exptilt.training.optim import build_optimizer, build_schedule
    from exptilt.training.step import clipped_gradient
    from exptilt.types import LogProbs

    turns.imported()
    prefer_onednn()  # as a run does
    keep_freed()
    loaded: Any = load_model(ModelConfig(path=f"{setting['folder']}/model", dtype=setting["weights"]))
    model: Any = loaded.to(setting["device"])
    turns.loaded()
    if setting["rank"]:
        model = with_adapter(model, AdapterConfig(rank=setting["rank"]))
    set_precision(model, getattr(torch, setting["precision"]))
    workload, budget = WORKLOADS[setting["workload"]], setting["budget"]
    groups = rows_of(workload, setting["vocabulary"], setting["groups"] * setting["steps"])
    objective = Objective(DPO() if workload.completions == 2 else PlackettLuce())
    table = {
        group.id: scored for group, scored in zip(groups, score_all(model, groups, max_tokens=budget), strict=True)
    }

    def reference(rows: Any) -> LogProbs:
        return LogProbs.cat([table[group.id] for group in rows]).to(setting["device"])

    batches = Batches(groups, BatchConfig(size=setting["groups"], tokens=budget, shuffle=False))
    settings = OptimConfig(learning_rate=LEARNING_RATE, schedule="constant", warmup_ratio=0.0)
    optimizer = build_optimizer(settings, model)
    schedule = build_schedule(settings, optimizer, setting["steps"])
    if setting["compile"]:
        for block in model.get_base_model().model.layers if setting["rank"] else model.model.layers:
            block.compile(dynamic=True)
    policy = Policy(model)
    model.train()
    weights = [one for one in model.parameters() if one.requires_grad]
    taken = iter(range(setting["steps"]))
    losses = [math.log(2)]

    def step() -> None:
        micro_batches = batches.step(next(taken))
        optimizer.zero_grad(set_to_none=True)
        sums = clipped_gradient(
            weights,
            micro_batches,
            objective,
            (policy, ScorerFunction(reference)),
            World.alone(),
            settings.max_grad_norm,
        )
        optimizer.step()
        schedule.step()
        objective.advance()
        losses.append(sums.means()["loss"])
        turns.loss = losses[-2]  # as TRL, which logs a step after its end

    turns.serve(step)


def floor_arm(setting: dict[str, Any], turns: Turns) -> None:
    """The matrix products of a step's unique tokens alone: shapes, dtype and order of a step, nothing between them."""
    import torch
    from workloads import SHAPES, WORKLOADS, Work, rows_of

    from exptilt.policies.engine.product import prefer_onednn

    prefer_onednn()  # the floor is what the faster library needs
    turns.imported()
    turns.loaded()
    workload, shape = WORKLOADS[setting["workload"]], SHAPES[setting["shape"]]
    groups = rows_of(workload, setting["vocabulary"], setting["groups"] * setting["steps"])
    where: dict[str, Any] = {"device": setting["device"], "dtype": getattr(torch, setting["precision"])}
    matrices = [torch.randn(columns, rows, **where) for rows, columns in shape.matrices]
    head = torch.randn(shape.vocabulary, shape.width, **where)
    taken = iter(range(setting["steps"]))

    def room(rows: int, widths: set[int]) -> dict[int, torch.Tensor]:
        return {width: torch.randn(rows, width, **where) for width in widths}

    widths = {size for pair in shape.matrices for size in pair}
    body = (room(ROWS, widths), room(ROWS, widths))
    chunk = setting["head_rows"]
    top = (room(chunk, {shape.width, shape.vocabulary}), room(chunk, {shape.width}))

    def products(weight: torch.Tensor, count: int, rows: int, buffers: Any) -> None:
        """`count` rows, some at a time: forward, gradient of the input, gradient of the weight. Nothing is allocated."""
        values, spare = buffers
        for begin in range(0, count, rows):
            size = min(rows, count - begin)
            inputs, outputs = values[weight.shape[1]][:size], values[weight.shape[0]][:size]
            if weight.shape[0] == weight.shape[1]:
                outputs = spare[weight.shape[0]][:size]
            torch.mm(inputs, weight.T, out=outputs)
            torch.mm(outputs, weight, out=spare[weight.shape[1]][:size] if inputs is outputs else inputs)
            if not setting["rank"]:
                torch.mm(outputs.T, inputs, out=grown[weight.shape])

    grown = {weight.shape: torch.empty_like(weight) for weight in [*matrices, head]}

    def step() -> None:
        start = next(taken) * setting["groups"]
        work = Work.of(groups[start : start + setting["groups"]])
        for _ in range(shape.layers):
            for weight in matrices:
                products(weight, work.tokens, ROWS, body)
        products(head, work.counted, chunk, top)

    turns.serve(step)


ARMS = {"exptilt": exptilt_arm, "trl": trl_arm, "floor": floor_arm}


def main() -> None:
    setting = json.loads(Path(sys.argv[2]).read_text())
    import torch

    torch.set_num_threads(setting["threads"])
    ARMS[sys.argv[1]](setting, Turns(setting))


if __name__ == "__main__":
    main()
