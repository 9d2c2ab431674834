"""Configurations in the shape of those that people publish, written for these tests, and what each must become.

An entry: the files, the settings that must come out of them, and the keys that have no counterpart.
"""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Any

Shape = make_dataclass(
    "Shape", ["files", "expected", ("refused", tuple, ()), ("extra", dict, field(default_factory=dict))], frozen=True
)
"""A configuration of another tool; `extra` are files that lie beside it and are not named."""

TRL_BASE = """\
model_name_or_path: org/model
dataset_name: org/pairs
output_dir: out
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
"""
AXOLOTL_BASE = """\
base_model: org/model
datasets:
  - path: org/pairs
    split: train
    type: chat_template.default
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 1
learning_rate: 5.0e-6
optimizer: adamw_torch
output_dir: ./out
"""
LLAMA_FACTORY_BASE = """\
model_name_or_path: org/model
stage: dpo
do_train: true
finetuning_type: lora
dataset: pairs
template: qwen
cutoff_len: 1024
output_dir: saves/out
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
"""
HANDBOOK_BASE = """\
model_name_or_path: org/sft
dataset_mixer:
  org/ultrafeedback: 1.0
dataset_splits: [train_prefs, test_prefs]
preprocessing_num_workers: 12
learning_rate: 5.0e-7
lr_scheduler_type: cosine
num_train_epochs: 1
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
output_dir: data/out
"""


def _trl(more: str, refused: tuple[str, ...] = (), **expected: Any) -> Any:
    return Shape(
        {"trl.yaml": TRL_BASE + more}, {"model.path": "org/model", "batch.size": 8} | _dotted(expected), refused
    )


def _axolotl(more: str, refused: tuple[str, ...] = (), **expected: Any) -> Any:
    return Shape(
        {"a.yaml": AXOLOTL_BASE + more}, {"data.max_tokens": 2048, "batch.size": 8} | _dotted(expected), refused
    )


def _factory(more: str, refused: tuple[str, ...] = (), **expected: Any) -> Any:
    return Shape({"lf.yaml": LLAMA_FACTORY_BASE + more}, {"data.max_tokens": 1024} | _dotted(expected), refused)


def _handbook(more: str, refused: tuple[str, ...] = (), **expected: Any) -> Any:
    base = {"data.train": "org/ultrafeedback", "data.split": "train_prefs", "data.test_split": "test_prefs"}
    return Shape({"h.yaml": HANDBOOK_BASE + more}, base | _dotted(expected), refused)


def _dotted(expected: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in expected.items()}


def _terms(*terms: tuple[float, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"loss": loss, "weight": weight} for weight, loss in terms]


SHAPES: dict[str, Any] = {
    # TRL's own command line
    "trl dpo defaults": _trl("beta: 0.1\n", loss__name="dpo", optim__learning_rate=1e-6, train__epochs=3.0, seed=42),
    "trl dpo lora": _trl(
        "loss_type: sigmoid\nbeta: 0.05\nuse_peft: true\nlora_r: 32\nlora_alpha: 16\n",
        loss__beta=0.05,
        adapter__rank=32,
        adapter__alpha=16.0,
    ),
    "trl lora keys without the switch": _trl("use_peft: false\nlora_r: 32\nbeta: 0.1\n", loss__name="dpo"),
    "trl list of losses": _trl(
        "loss_type: [sigmoid, bco_pair, sft]\nloss_weights: [0.8, 0.2, 1.0]\nbeta: 0.1\n",
        loss__name="mixture",
        loss__terms=_terms(
            (0.8, {"name": "dpo", "beta": 0.1}),
            (0.2, {"name": "bco", "threshold": "zero", "beta": 0.1}),
            (1.0, {"name": "nll", "normalization": "token"}),
        ),
    ),
    "trl rpo": _trl(
        "beta: 0.1\nrpo_alpha: 0.5\n",
        loss__name="mixture",
        loss__terms=_terms((1.0, {"name": "dpo", "beta": 0.1}), (0.5, {"name": "nll", "normalization": "token"})),
    ),
    "trl ipo": _trl("loss_type: ipo\nbeta: 0.01\n", loss__name="ipo", loss__length_normalized=True),
    "trl hinge": _trl("loss_type: hinge\nbeta: 0.1\n", loss__name="hinge"),
    "trl robust": _trl("loss_type: robust\nlabel_smoothing: 0.1\nbeta: 0.1\n", loss__name="robust_dpo"),
    "trl exo": _trl("loss_type: exo_pair\nlabel_smoothing: 0.001\nbeta: 0.1\n", loss__name="exo"),
    "trl aot unpaired": _trl("loss_type: aot_unpaired\nbeta: 0.1\n", loss__name="aot", loss__paired=False),
    "trl apo": _trl("loss_type: apo_zero\nbeta: 0.1\n", loss__name="apo_zero"),
    "trl smoothing": _trl("loss_type: sigmoid\nlabel_smoothing: 0.1\nbeta: 0.1\n", loss__label_smoothing=0.1),
    "trl moving reference": _trl(
        "beta: 0.1\nsync_ref_model: true\nref_model_sync_steps: 512\nref_model_mixup_alpha: 0.6\n",
        reference__move_every=512,
        reference__mix=0.6,
    ),
    "trl warm-up in steps": _trl(
        "beta: 0.1\nmax_steps: 200\nwarmup_steps: 20\n",
        optim__warmup_steps=20,
        optim__warmup_from_zero=True,
        train__max_steps=200,
        train__epochs=200.0,
    ),
    "trl warm-up as a share": _trl("beta: 0.1\nwarmup_steps: 0.1\n", optim__warmup_ratio=0.1),
    "trl schedule with settings": _trl(
        "beta: 0.1\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n",
        optim__schedule="cosine_with_min_lr",
        optim__schedule_args={"min_lr_rate": 0.1},
    ),
    "trl constant has no warm-up": _trl(
        "beta: 0.1\nlr_scheduler_type: constant\nwarmup_steps: 20\n", optim__warmup_ratio=0.0, optim__warmup_steps=None
    ),
    "trl no reference": _trl(
        "beta: 0.2\nreference_free: true\n", loss__name="cpo", loss__nll_weight=0.0, loss__beta=0.2
    ),
    "trl divergence": _trl(
        "f_divergence_type: alpha_divergence\nf_alpha_divergence_coef: 0.7\n",
        loss__name="f_dpo",
        loss__divergence="alpha",
        loss__alpha=1 - 0.7,
        loss__beta=None,
    ),
    "trl weighting": _trl("beta: 0.1\nuse_weighting: true\n", loss__name="wpo", loss__cap=False, loss__beta=0.1),
    "trl usual beta": _trl("loss_type: nca_pair\n", loss__name="nca", loss__beta=0.1),
    "trl best weights": _trl(
        "beta: 0.1\neval_strategy: steps\neval_steps: 5\nload_best_model_at_end: true\n"
        "metric_for_best_model: eval_rewards/accuracies\n",
        train__best="max eval/rewards/accuracies",
    ),
    "trl no clipping": _trl("beta: 0.1\nmax_grad_norm: 0\n", optim__max_grad_norm=float("inf")),
    "trl float32": _trl("beta: 0.1\nbf16: false\n", train__precision="float32"),
    "trl one divergence too many": _trl(
        "beta: 0.1\nuse_weighting: true\nld_alpha: 0.5\n", ("use_weighting",), loss__name="ld_dpo"
    ),
    "trl older names": _trl(
        "beta: 0.1\nmax_length: 512\nmax_prompt_length: 256\ntruncation_mode: keep_end\nevaluation_strategy: steps\neval_steps: 50\n",
        data__max_tokens=512,
        data__on_too_long="trim_prompt_start",
        train__eval_every=50,
        data__test_split="test",
    ),
    "trl pushes": _trl("beta: 0.1\npush_to_hub: true\n", ("push_to_hub",)),
    "trl in half precision": _trl("beta: 0.1\nfp16: true\n", ("fp16",)),
    "trl 4 bits": _trl("beta: 0.1\nload_in_4bit: true\nuse_peft: true\n", model__quantize="nf4", adapter__rank=8),
    "trl with accelerate": Shape(
        {
            "trl.yaml": TRL_BASE + "beta: 0.1\n",
            "accelerate.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: bf16\n"
            "num_machines: 1\nnum_processes: 8\nfsdp_config:\n  fsdp_sharding_strategy: FULL_SHARD\n",
        },
        {"batch.size": 64, "parallel.kind": "fsdp", "train.precision": "bfloat16"},
    ),
    "trl with deepspeed": Shape(
        {
            "trl.yaml": TRL_BASE + "beta: 0.1\ndeepspeed: ds.json\n",
            "ds.json": '{"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}, "bf16": {"enabled": "auto"}, '
            '"train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "gradient_clipping": 0.5}',
        },
        {"parallel.kind": "fsdp", "parallel.cpu_offload": True, "optim.max_grad_norm": 0.5, "batch.size": 8},
    ),
    "accelerate alone": Shape(
        {
            "acc.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: 'no'\n"
        },
        {"parallel.kind": "auto", "train.precision": "float32"},
    ),
    "deepspeed alone": Shape(
        {
            "ds.json": '{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, '
            '"optimizer": {"type": "AdamW", "params": {"lr": 1e-5, "weight_decay": 0.1}}}'
        },
        {"parallel.kind": "auto", "batch.size": 8, "optim.learning_rate": 1e-5, "optim.weight_decay": 0.1},
    ),
    # Axolotl
    "axolotl dpo": _axolotl("rl: dpo\nrl_beta: 0.2\n", loss__name="dpo", loss__beta=0.2, optim__schedule="cosine"),
    "axolotl ipo": _axolotl("rl: ipo\n", loss__name="ipo"),
    "axolotl simpo": _axolotl(
        "rl: simpo\nrl_beta: 2.0\nsimpo_gamma: 1.0\ncpo_alpha: 0.0\n",
        loss__name="simpo",
        loss__gamma=1.0,
        loss__beta=2.0,
    ),
    "axolotl orpo": _axolotl("rl: orpo\norpo_alpha: 0.1\n", loss__name="orpo", loss__lam=0.1),
    "axolotl kto": _axolotl(
        "rl: kto\nrl_beta: 0.5\nkto_desirable_weight: 0.2\n",
        loss__name="kto",
        loss__desirable_weight=0.2,
        loss__beta=0.5,
    ),
    "axolotl grpo": _axolotl("rl: grpo\n", ("rl",)),
    "axolotl qlora": _axolotl(
        "rl: dpo\nadapter: qlora\nlora_r: 64\nlora_target_linear: true\nload_in_4bit: true\n",
        adapter__rank=64,
        adapter__targets=["all-linear"],
        model__quantize="nf4",
    ),
    "axolotl local file": Shape(
        {
            "a.yaml": "base_model: org/model\nrl: dpo\nsequence_len: 512\ndatasets:\n  - path: json\n    data_files: [pairs.jsonl]\n"
            "    type: chatml.intel\n  - path: org/more\n    type: chatml.ultra\n    split: train_prefs\nval_set_size: 0.05\n"
        },
        {
            "data.train": "pairs.jsonl",
            "data.format": "orca",
            "data.mixture": [{"path": "org/more", "split": "train_prefs", "format": "preference"}],
            "data.test_fraction": 0.05,
        },
    ),
    "axolotl fields": Shape(
        {
            "a.yaml": "base_model: org/model\nrl: dpo\nsequence_len: 512\ndatasets:\n  - path: org/pairs\n    type:\n"
            "      field_prompt: question\n      field_chosen: good\n      field_rejected: bad\n      prompt_format: '{prompt}'\n"
        },
        {"data.columns": {"prompt": "question", "chosen": "good", "rejected": "bad"}},
    ),
    "axolotl epochs of evaluation": _axolotl(
        "rl: dpo\nevals_per_epoch: 4\nsaves_per_epoch: 1\n", ("evals_per_epoch", "saves_per_epoch")
    ),
    "axolotl sft": _axolotl("sample_packing: true\npad_to_sequence_len: true\ntrain_on_inputs: false\n"),
    # LLaMA-Factory
    "factory dpo": _factory(
        "pref_beta: 0.1\npref_loss: sigmoid\nlora_rank: 8\nlora_target: all\n",
        loss__name="dpo",
        adapter__rank=8,
        adapter__targets=["all-linear"],
    ),
    "factory simpo": _factory(
        "pref_loss: simpo\npref_beta: 2.0\nsimpo_gamma: 0.5\n", loss__name="simpo", loss__gamma=0.5
    ),
    "factory orpo": _factory("pref_loss: orpo\npref_beta: 0.1\n", loss__name="orpo"),
    "factory kto pairs": _factory("pref_loss: kto_pair\n", loss__name="kto"),
    "factory with likelihood": _factory(
        "pref_beta: 0.1\npref_ftx: 0.2\n",
        loss__terms=_terms((1.0, {"name": "dpo", "beta": 0.1}), (0.2, {"name": "nll", "normalization": "sequence"})),
    ),
    "factory full": Shape(
        {"lf.yaml": LLAMA_FACTORY_BASE.replace("lora", "full") + "deepspeed: examples/deepspeed/ds_z3_config.json\n"},
        {"parallel.kind": "fsdp", "loss.name": "dpo"},
    ),
    "factory freeze": Shape(
        {"lf.yaml": LLAMA_FACTORY_BASE.replace("lora", "freeze")}, {"loss.name": "dpo"}, ("finetuning_type",)
    ),
    "factory kto": Shape(
        {"lf.yaml": LLAMA_FACTORY_BASE.replace("stage: dpo", "stage: kto") + "kto_chosen_weight: 2.0\n"},
        {"loss.name": "kto", "loss.desirable_weight": 2.0},
    ),
    "factory registry": Shape(
        {"lf.yaml": LLAMA_FACTORY_BASE.replace("dataset: pairs", "dataset: pairs,more\ndataset_dir: data")},
        {
            "data.columns": {"prompt": "instruction", "chosen": "good"},
            "data.mixture": [{"path": "org/more", "subset": "en"}],
        },
        (),
        {
            "data/dataset_info.json": '{"pairs": {"file_name": "pairs.json", "ranking": true, "columns": {"prompt": "instruction", '
            '"chosen": "good", "rejected": "rejected"}}, "more": {"hf_hub_url": "org/more", "subset": "en", "ranking": true}}'
        },
    ),
    "factory reward model": Shape(
        {"lf.yaml": LLAMA_FACTORY_BASE.replace("stage: dpo", "stage: rm")},
        {"data.train": "pairs", "loss.name": "bradley_terry"},
    ),
    # alignment-handbook
    "handbook dpo": _handbook(
        "beta: 0.01\nbf16: true\nmax_length: 1024\n", loss__beta=0.01, train__precision="bfloat16"
    ),
    "handbook qlora": _handbook(
        "beta: 0.01\nload_in_4bit: true\nuse_peft: true\nlora_r: 128\nlora_target_modules: [q_proj, k_proj]\n",
        adapter__targets=["q_proj", "k_proj"],
    ),
    "handbook shares": Shape(
        {"h.yaml": HANDBOOK_BASE.replace("1.0", "0.5") + "beta: 0.1\n"},
        {"data.train": "org/ultrafeedback"},
        ("dataset_mixer",),
    ),
    "handbook orpo": _handbook("loss_type: sigmoid\nbeta: 0.05\noptim: adamw_bnb_8bit\n", optim__name="adamw_8bit"),
    # scripts
    "unsloth script": Shape(
        {
            "train.py": """
from unsloth import FastLanguageModel
from trl import DPOConfig, DPOTrainer
max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained("unsloth/zephyr-sft", max_seq_length=max_seq_length, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=64, lora_alpha=64, target_modules=["q_proj", "v_proj"], random_state=3407)
dataset = load_dataset("org/pairs", split="train")
trainer = DPOTrainer(model=model, ref_model=None, args=DPOConfig(per_device_train_batch_size=2, gradient_accumulation_steps=4,
    warmup_ratio=0.1, num_train_epochs=3, learning_rate=5e-6, optim="adamw_8bit", seed=42, output_dir="outputs"),
    beta=0.1, train_dataset=dataset, max_length=1024, max_prompt_length=512)
trainer.train()
"""
        },
        {
            "model.path": "unsloth/zephyr-sft",
            "model.quantize": "nf4",
            "adapter.rank": 64,
            "loss.name": "dpo",
            "batch.size": 8,
            "optim.name": "adamw_8bit",
            "data.train": "org/pairs",
            "data.split": "train",
        },
    ),
    "trl script": Shape(
        {
            "dpo.py": """
from trl import DPOConfig, DPOTrainer
args = DPOConfig(output_dir="out", beta=0.1, loss_type="ipo", learning_rate=5e-7, per_device_train_batch_size=4)
DPOTrainer(model="org/model", args=args, train_dataset=load_dataset("org/pairs", split="train")).train()
"""
        },
        {"loss.name": "ipo", "data.train": "org/pairs", "output": "out", "batch.size": 4},
    ),
    "orpo script": Shape(
        {"o.py": 'ORPOTrainer(args=ORPOConfig(beta=0.2, output_dir="out", per_device_train_batch_size=2))\n'},
        {"loss.name": "orpo", "loss.lam": 0.2},
    ),
    "kto script": Shape(
        {
            "k.py": 'KTOTrainer(args=KTOConfig(beta=0.1, desirable_weight=1.3, per_device_train_batch_size=2, output_dir="out"))\n'
        },
        {"loss.name": "kto", "loss.desirable_weight": 1.3},
    ),
    "cpo simpo script": Shape(
        {
            "c.py": 'CPOTrainer(args=CPOConfig(loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.5, beta=2.0, output_dir="o"))\n'
        },
        {"loss.name": "simpo", "loss.gamma": 0.5, "loss.beta": 2.0},
    ),
}
