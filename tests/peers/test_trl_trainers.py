"""The trainers of exptilt.trl against TRL's own (1.16): one script, the import changed, the same numbers at every step.

Both start from one model in float32, draw rows in the same order by the same seed, and take every setting by the same keyword.
Deviations of value, all documented in docs/trl.md, are kept out of the way: batches divide, so that the last step is no mean of
unequal parts; KTO's batches have two rows, of which each is the other's mismatched completion.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

import exptilt.trl as ours
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.runs.run_recipe import run_recipe

pytest.importorskip("trl", reason="the comparison with TRL's own code needs it: pip install 'exptilt[peers]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trl
    import trl.experimental.cpo
    import trl.experimental.orpo
    from datasets import Dataset

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5
PLACES: dict[str, Any] = {"ORPO": trl.experimental.orpo, "CPO": trl.experimental.cpo}
WORDS = ("red", "blue", "green", "good", "bad", "tall")


def pairs(count: int = 16) -> list[dict[str, Any]]:
    def row(number: int) -> dict[str, Any]:
        word, other = WORDS[number % 6], WORDS[(number + 1 + number // 6) % 6]
        long = f" and {word}" if number % 3 else ""
        return {
            "prompt": f"film {number} was" + " very" * (number % 2),
            "chosen": f" {word}{long}",
            "rejected": f" not {other} {word} ." if number % 2 else f" {other}",
        }

    return [row(number) for number in range(count)]


def marked(count: int = 16) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if place % 3 else "rejected"], "label": place % 3 > 0}
        for place, row in enumerate(pairs(count))
    ]


def demonstrations() -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs()]


ROWS: dict[str, Any] = {"KTO": marked, "SFT": demonstrations}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report costs more than the training here."""
    monkeypatch.setattr("exptilt.trl.preference_trainer.run_recipe", partial(run_recipe, page=False))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [text for row in pairs() for text in (row["prompt"], row["chosen"], row["rejected"])]
    return train_word_tokenizer(texts)


def model_for(kind: str, tokenizer: Any) -> Any:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.2, **shape, **marks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "Reward":
            config.num_labels = 1
            return LlamaForSequenceClassification(config)
        return LlamaForCausalLM(config)


def logged(place: Any, kind: str, tokenizer: Any, folder: Any, settings: dict[str, Any], more: dict[str, Any]) -> Any:
    """One script, whatever the import."""
    config = getattr(place, f"{kind}Config")(output_dir=str(folder), **settings)
    trainer = getattr(place, f"{kind}Trainer")(
        model=model_for(kind, tokenizer),
        args=config,
        train_dataset=Dataset.from_list(ROWS.get(kind, pairs)()),
        processing_class=copy.deepcopy(tokenizer),
        **more,
    )
    trainer.train()
    return trainer


def compared(kind: str, tokenizer: Any, tmp_path: Any, monkeypatch: Any, settings: dict[str, Any], **more: Any) -> Any:
    monkeypatch.setenv("CI", "1")
    usual = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 2e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "max_length": 32,
    }
    settings = {**usual, **settings}
    theirs = logged(PLACES.get(kind, trl), kind, tokenizer, tmp_path / "trl", settings, copy.deepcopy(more))
    mine = logged(ours, kind, tokenizer, tmp_path / "exptilt", settings, copy.deepcopy(more))
    return mine, theirs


def lines(trainer: Any) -> list[dict[str, Any]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def require_equal(mine: Any, theirs: Any, names: tuple[str, ...], tolerance: float = TOLERANCE) -> None:
    ours_, of_trl = lines(mine), lines(theirs)
    assert len(ours_) == len(of_trl) >= 4
    for line, other in zip(ours_, of_trl, strict=True):
        for name in ("loss", "step", "epoch", "learning_rate", *names):
            assert line[name] == pytest.approx(other[name], abs=tolerance, rel=tolerance), (name, line["step"])
    assert len({round(line["loss"], 4) for line in ours_}) > 2


LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {"num_train_epochs": 3},  # every epoch has an order of its own
    "old names": {"loss_type": ["sigmoid"], "beta": 0.5, "lr_scheduler_type": "cosine", "warmup_steps": 2},
    "hinge": {"loss_type": ["hinge"], "beta": 1.0},
    "ipo": {"loss_type": ["ipo"]},
    "exo_pair": {"loss_type": ["exo_pair"], "beta": 0.5, "label_smoothing": 1e-3},
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "bco_pair": {"loss_type": ["bco_pair"]},
    "aot_unpaired": {"loss_type": ["aot_unpaired"]},
    "apo_zero": {"loss_type": ["apo_zero"]},
    "discopop": {"loss_type": ["discopop"], "discopop_tau": 0.1},
    "sft": {"loss_type": ["sft"]},
    "sigmoid_norm": {"loss_type": ["sigmoid_norm"], "beta": 5.0},
    "js_divergence": {"f_divergence_type": "js_divergence"},
    "ld_alpha": {"ld_alpha": 0.3},
    "use_weighting": {"use_weighting": True},
    "a list": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    "accumulation": {"num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "sync_ref_model": {
        "num_train_epochs": 2,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.5,
    },
    "precomputed": {"precompute_ref_log_probs": True},
    "sequential": {"train_sampling_strategy": "sequential"},
    "decay and clipping": {"weight_decay": 0.1, "max_grad_norm": 0.05, "adam_beta2": 0.9},
    "truncated": {"max_length": 7},
}
OTHER_REWARDS = ("ipo", "sigmoid_norm", "js_divergence", "forward_kl", "sft")
"""Losses whose rewards are logged as they imply them; TRL logs beta times the summed log-ratio for all."""
PAIRED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "grad_norm")


@pytest.mark.parametrize("case", LOSSES)
def test_dpo(case, tokenizer, tmp_path, monkeypatch):
    reference = model_for("DPO", tokenizer)
    mine, theirs = compared("DPO", tokenizer, tmp_path, monkeypatch, LOSSES[case], ref_model=reference)
    names = ("grad_norm",) if case in OTHER_REWARDS else PAIRED
    require_equal(mine, theirs, names if case == "ld_alpha" else (*names, "logps/chosen", "logps/rejected"))


@pytest.mark.parametrize("case", ["kto", "apo_zero_unpaired", "weighted"])
def test_kto(case, tokenizer, tmp_path, monkeypatch):
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 1}
    settings |= {"desirable_weight": 1.3, "undesirable_weight": 0.7} if case == "weighted" else {}
    settings |= {"loss_type": case} if "apo" in case else {}
    reference = model_for("KTO", tokenizer)
    mine, theirs = compared("KTO", tokenizer, tmp_path, monkeypatch, settings, ref_model=reference)
    require_equal(mine, theirs, ("grad_norm",))


REFERENCE_FREE: dict[str, tuple[str, dict[str, Any]]] = {
    "orpo": ("ORPO", {"beta": 0.3}),
    "cpo": ("CPO", {"cpo_alpha": 0.7}),
    "cpo hinge": ("CPO", {"loss_type": "hinge", "beta": 0.5}),
    "simpo": ("CPO", {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0}),
    "simpo as by default": ("CPO", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}),
    "alphapo": ("CPO", {"loss_type": "alphapo", "beta": 2.5, "simpo_gamma": 0.1, "alpha": 0.25}),
}


@pytest.mark.parametrize("case", REFERENCE_FREE)
def test_reference_free(case, tokenizer, tmp_path, monkeypatch):
    kind, settings = REFERENCE_FREE[case]
    mine, theirs = compared(kind, tokenizer, tmp_path, monkeypatch, settings)
    require_equal(mine, theirs, ("grad_norm",))


@pytest.mark.parametrize("centering", [None, 0.01])
def test_reward(centering, tokenizer, tmp_path, monkeypatch):
    settings = {"center_rewards_coefficient": centering}
    mine, theirs = compared("Reward", tokenizer, tmp_path, monkeypatch, settings)
    require_equal(mine, theirs, ("accuracy", "margin", "grad_norm"))


def test_sft(tokenizer, tmp_path, monkeypatch):
    mine, theirs = compared("SFT", tokenizer, tmp_path, monkeypatch, {})
    require_equal(mine, theirs, ("grad_norm",))
