"""Programs as people have them, with the import changed and nothing else; models and rows are small and on this machine."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe

ROWS = [{"prompt": f"film {n} was", "chosen": f" good and {n}", "rejected": f" bad {n % 3}"} for n in range(12)]
PROGRAMS = {
    # a policy and a reference, loaded twice; keywords of 0.9 to 0.12
    "dpo": """
        from exptilt.trl import DPOTrainer, DPOConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from datasets import load_dataset

        model = AutoModelForCausalLM.from_pretrained(MODEL)
        ref_model = AutoModelForCausalLM.from_pretrained(MODEL)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        dataset = load_dataset("json", data_files={"train": PAIRS})
        config = DPOConfig(
            output_dir=OUT, per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=5e-7,
            num_train_epochs=1, beta=0.1, max_length=2048, max_prompt_length=512,
        )
        trainer = DPOTrainer(
            model=model, ref_model=ref_model, args=config, train_dataset=dataset["train"], tokenizer=tokenizer
        )
        trainer.train()
    """,
    # one stage without a reference
    "orpo": """
        from exptilt.trl import ORPOTrainer, ORPOConfig

        config = ORPOConfig(output_dir=OUT, learning_rate=8e-6, beta=0.1)
        trainer = ORPOTrainer(model=model, args=config, train_dataset=dataset, tokenizer=tokenizer)
        trainer.train()
    """,
    # thumbs up and down; the tokenizer is the model's
    "kto": """
        from exptilt.trl import KTOTrainer, KTOConfig

        config = KTOConfig(output_dir=OUT, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
        trainer = KTOTrainer(model=model, ref_model=ref_model, args=config, train_dataset=marks)
        trainer.train()
    """,
    # low-rank adapter
    "lora": """
        from exptilt.trl import DPOConfig, DPOTrainer
        from peft import LoraConfig

        peft_config = LoraConfig(
            r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], lora_dropout=0.05,
            task_type="CAUSAL_LM",
        )
        config = DPOConfig(OUT)
        trainer = DPOTrainer(
            model=model, args=config, train_dataset=dataset, tokenizer=tokenizer, peft_config=peft_config
        )
        trainer.train()
    """,
    # a script of stages, with everything that such scripts ask of a trainer afterwards
    "script": """
        import os
        from exptilt.trl import DPOConfig, DPOTrainer
        from transformers.trainer_utils import get_last_checkpoint

        training_args = DPOConfig(
            output_dir=OUT, num_train_epochs=1, eval_strategy="epoch", save_strategy="epoch", logging_steps=0.5,
            lr_scheduler_type="cosine", warmup_ratio=0.1, gradient_checkpointing=True, seed=42, do_eval=True,
            gradient_checkpointing_kwargs={"use_reentrant": False}, optim="adamw_torch", report_to=[],
            per_device_train_batch_size=4, per_device_eval_batch_size=4, remove_unused_columns=False,
            model_init_kwargs={"torch_dtype": "float32", "attn_implementation": "sdpa", "use_cache": False},
            hub_model_id="somebody/model", load_best_model_at_end=True, metric_for_best_model="eval_loss",
        )
        last = get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None
        trainer = DPOTrainer(
            MODEL, ref_model=MODEL, args=training_args, train_dataset=dataset, eval_dataset=dataset,
            processing_class=tokenizer,
        )
        result = trainer.train(resume_from_checkpoint=last)
        metrics = result.metrics
        metrics["train_samples"] = len(dataset)
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()
        trainer.save_model(training_args.output_dir)
        if trainer.accelerator.is_main_process:
            trainer.create_model_card(dataset_name="pairs", tags=["dpo"])
            trainer.model.config.use_cache = True
            trainer.model.config.save_pretrained(training_args.output_dir)
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    """,
    # TRL 1: everything named by strings
    "names": """
        from exptilt.trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

        sft = SFTTrainer(model=MODEL, args=SFTConfig(OUT + "-sft", max_steps=2, packing=True), train_dataset=texts)
        sft.train()
        sft.save_model(OUT + "-base")
        trainer = DPOTrainer(OUT + "-base", args=DPOConfig(OUT, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5],
                             max_steps=2, eval_strategy="steps", eval_steps=1, bf16=False), train_dataset=dataset,
                             eval_dataset=dataset)
        trainer.train()
        metrics = trainer.evaluate()
    """,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()], vocab_size=300)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape, **marks)
    ).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"MODEL": str(folder / "model"), "PAIRS": str(folder / "pairs.jsonl")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_with_the_import_changed(program, world, tmp_path, monkeypatch):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr("exptilt.trl.preference_trainer.run_recipe", partial(run_recipe, page=False))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, ref_model = (AutoModelForCausalLM.from_pretrained(world["MODEL"]) for _ in range(2))
    names: dict[str, Any] = {
        **world,
        "OUT": str(tmp_path / "out"),
        "model": model,
        "ref_model": ref_model,
        "tokenizer": AutoTokenizer.from_pretrained(world["MODEL"]),
        "dataset": Dataset.from_list(ROWS),
        "texts": Dataset.from_list([{"text": row["prompt"] + row["chosen"]} for row in ROWS]),
        "marks": [{"prompt": r["prompt"], "completion": r["chosen"], "label": n % 2 == 0} for n, r in enumerate(ROWS)],
    }
    exec("if True:" + PROGRAMS[program], names)
    trainer = names["trainer"]
    assert trainer.state.global_step >= 1
    assert any(line.get("train_loss", 0) > 0 for line in trainer.state.log_history)
    assert (Path(names["OUT"]) / "model" / "tokenizer.json").is_file()
    if program == "script":
        assert names["result"].metrics["epoch"] == 1.0
        assert (
            json.loads((Path(names["OUT"]) / "eval_results.json").read_text())["eval_loss"]
            == names["metrics"]["eval_loss"]
        )
        assert AutoModelForCausalLM.from_pretrained(names["OUT"]).config.use_cache
    if program == "names":
        assert names["metrics"]["eval_loss"] > 0
        assert any(Path(names["OUT"] + "-base").glob("*.safetensors"))
