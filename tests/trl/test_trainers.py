"""TRL's trainers as programs use them: in place, resumed, measured, saved, called back; and everything that is refused."""

from __future__ import annotations

import copy
import json
import logging
import sys
from functools import partial
from pathlib import Path
from subprocess import run

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from exptilt.errors import CheckpointError, ConfigError, DataError
from exptilt.losses import SimPO
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    ORPOConfig,
    ORPOTrainer,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

WORDS = ("red", "blue", "green", "good", "bad", "tall")
ROWS = [
    {"prompt": f"film {n} was", "chosen": f" {WORDS[n % 6]} and {n % 5}", "rejected": f" {WORDS[n % 4]}"}
    for n in range(20)
]
HELD_OUT = [{**row, "prompt": f"book {n} was"} for n, row in enumerate(ROWS[:6])]
QUICK = {
    "per_device_train_batch_size": 5,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "disable_tqdm": True,
    "max_length": 64,
}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    """The report costs more than the training here; one test has it."""
    monkeypatch.setattr("exptilt.trl.preference_trainer.run_recipe", partial(run_recipe, page=False))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for row in (*ROWS, *HELD_OUT) for text in row.values()], vocab_size=300)


@pytest.fixture
def model(tokenizer):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape, **marks))


@pytest.fixture
def make(model, tokenizer, tmp_path):
    def trainer(kind=DPOTrainer, given=None, config=None, **more):
        settings = {**QUICK, **more.pop("settings", {})}
        args = config or kind.config_class(str(tmp_path / "run"), **settings)
        objects = {"train_dataset": Dataset.from_list(ROWS), "tokenizer": tokenizer, **more}
        return kind(model=given or model, args=args, **objects)

    return trainer


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_trl_is_not_needed():
    code = (
        "import sys; sys.modules['trl'] = None\n"
        "import exptilt.trl; assert 'torch' not in sys.modules, 'torch is imported before it is needed'\n"
        "from exptilt.trl import DPOTrainer, SFTConfig\n"
        "assert dir(exptilt.trl) == sorted(exptilt.trl.__all__) and len(dir(exptilt.trl)) == 12\n"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_given_model_ends_trained_and_is_what_is_saved(make, model, tmp_path):
    before = fingerprint(model)
    trainer = make()
    output = trainer.train()
    assert trainer.model is model
    assert fingerprint(model) != before
    assert not model.training
    assert (output.global_step, len(losses(trainer))) == (4, 4)
    assert losses(trainer)[0] == pytest.approx(0.6931472, abs=1e-6)
    assert output.training_loss == pytest.approx(sum(losses(trainer)) / 4)
    last = trainer.state.log_history[-1]
    assert (last["step"], last["epoch"], last["train_loss"]) == (4, 1.0, output.training_loss)
    trainer.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):  # TRL's place, and ours
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
        assert AutoTokenizer.from_pretrained(folder).eos_token == trainer.tokenizer.eos_token


def test_a_second_training_goes_on_from_the_model_and_moves_the_first_aside(make, tmp_path):
    trainer = make()
    trainer.train()
    moved = fingerprint(trainer.model)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0.6931472, abs=1e-6)  # its reference is where it begins
    assert fingerprint(trainer.model) != moved
    assert len(list((tmp_path / "run" / "earlier").iterdir())) == 1


def test_a_second_training_of_an_adapter_goes_on_from_it(make, tmp_path):
    trainer = make(peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer.train()
    first = fingerprint(trainer.model)
    with pytest.raises(ConfigError, match="holds the base of the adapter"):
        trainer.train()
    assert (tmp_path / "run" / "model").is_dir()
    trainer.args.output_dir = str(tmp_path / "second")
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0.6931472, abs=1e-6)
    assert fingerprint(trainer.model) != first
    assert sum("lora_A" in name for name, _ in trainer.model.named_parameters()) == 1


def test_a_stopped_training_ends_as_if_it_had_not_been(make, model, tmp_path, tokenizer):
    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    whole = make(settings={"save_steps": 2})
    whole.train()
    end = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(start)
    other = {**QUICK, "save_steps": 2, "output_dir": str(tmp_path / "other")}
    broken = make(config=DPOConfig(**other), callbacks=[Breaks])
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    model.load_state_dict(start)
    resumed = make(config=DPOConfig(**other))
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(weight, end[name]) for name, weight in model.state_dict().items())
    assert losses(resumed) == losses(whole)  # the log of before the interruption is kept, too
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint='elsewhere'"):
        resumed.train(resume_from_checkpoint="elsewhere")
    model.load_state_dict(end)
    with pytest.raises(CheckpointError, match=r"another recipe \(different: model"):
        make(config=DPOConfig(**other)).train(resume_from_checkpoint=True)


def test_held_out_rows_are_measured_before_on_the_way_and_after(make):
    trainer = make(eval_dataset=HELD_OUT, settings={"eval_strategy": "steps", "eval_steps": 2})
    first = trainer.evaluate()
    assert first["eval_loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["eval_rewards/margins"] == 0
    trainer.train()
    on_the_way = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert [line["step"] for line in on_the_way] == [2, 4]
    last = trainer.evaluate()
    assert last["eval_loss"] == on_the_way[-1]["eval_loss"] != first["eval_loss"]
    with pytest.raises(ConfigError, match="the reference is the model as it was before training"):
        trainer.evaluate(HELD_OUT[:3])


def test_other_rows_are_measured_against_a_reference_that_is_there(make, model):
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    whole = make(eval_dataset=HELD_OUT, peft_config=adapter, settings={"learning_rate": 0.1})
    whole.train()
    assert isinstance(whole.model, PeftModel)
    whole.eval_dataset = None
    again = whole.evaluate(HELD_OUT)  # by another way: scored anew, with the adapter on and off
    assert again["eval_loss"] == pytest.approx(whole._bridge.latest["eval_loss"], abs=1e-6)
    assert again["eval_rewards/margins"] == pytest.approx(whole._bridge.latest["eval_rewards/margins"], abs=1e-6)
    assert again["eval_loss"] != pytest.approx(0.6931472, abs=1e-4)


def test_an_adapter_is_trained_around_the_given_model(make, model, tmp_path):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = make(peft_config=LoraConfig(r=4, lora_alpha=6, use_rslora=True, task_type="CAUSAL_LM"))
    trainer.train()
    adapter = trainer.model.peft_config["default"]
    assert sorted(adapter.target_modules) == ["q_proj", "v_proj"]  # peft's usual ones of this architecture
    assert adapter.lora_alpha / adapter.r == pytest.approx(6 / 4**0.5)
    frozen = {
        name.replace(".base_layer", ""): weight for name, weight in model.named_parameters() if "lora_" not in name
    }
    assert all(torch.equal(frozen[name], weight) for name, weight in before.items())
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_weights_of_the_best_measurement_are_in_memory_at_the_end(make, model):
    start = copy.deepcopy(model)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "num_train_epochs": 5}
    trainer = make(
        eval_dataset=HELD_OUT, settings={**settings, "learning_rate": 0.1, "metric_for_best_model": "logps/chosen"}
    )
    trainer.train()
    measured = [line["eval_logps/chosen"] for line in trainer.state.log_history if "eval_loss" in line]
    assert max(measured) > measured[-1] + 0.1
    trainer.ref_model = start
    trainer._parts = trainer._parts_of(ROWS, HELD_OUT)
    assert trainer.state.best_metric == max(measured)
    assert trainer.evaluate()["eval_logps/chosen"] == pytest.approx(max(measured), abs=1e-4)


def test_callbacks_hear_what_transformers_tells_them(make):
    heard = []

    class Listens(TrainerCallback):
        def __getattribute__(self, name):
            if not name.startswith("on_"):
                return super().__getattribute__(name)

            def event(args, state, control, **things):
                heard.append((name, state.global_step))
                assert things["model"] is not None
                assert args.logging_steps == 1
                if name == "on_log" and "loss" in things["logs"]:
                    assert things["logs"]["learning_rate"] > 0
                if name == "on_step_end" and state.global_step == 3:
                    control.should_training_stop = True

            return event

    trainer = make(
        callbacks=[Listens],
        eval_dataset=HELD_OUT,
        settings={"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2},
    )
    trainer.train()
    assert trainer.state.global_step == 3
    names = [name for name, _ in heard]
    assert names[:4] == ["on_init_end", "on_train_begin", "on_epoch_begin", "on_step_begin"]
    assert names[-1] == "on_train_end"
    steps = {name: [step for other, step in heard if other == name] for name in set(names)}
    assert steps["on_step_end"] == [1, 2, 3]
    assert steps["on_evaluate"] == [2, 3]
    assert steps["on_save"] == [2, 3]
    assert steps["on_epoch_end"] == [3]


def test_early_stopping_of_transformers_stops(make):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 5, "load_best_model_at_end": True}
    trainer = make(
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        eval_dataset=HELD_OUT,
        settings={**settings, "metric_for_best_model": "lengths/chosen", "greater_is_better": True},
    )
    trainer.train()
    assert trainer.state.global_step == 3  # lengths of held-out rows never grow


def test_what_a_callback_wants_in_vain_is_said(make, caplog):
    class Wants(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = True

    with caplog.at_level(logging.WARNING, logger="exptilt.trl"):
        make(callbacks=[Wants()]).train()
    assert caplog.text.count("control.should_save, which has no effect here; set save_steps") == 1


def test_what_has_no_effect_is_said_once(make, caplog):
    rows = [{**row, "score": 1.0} for row in ROWS]
    with caplog.at_level(logging.WARNING, logger="exptilt.trl"):
        make(train_dataset=rows, settings={"max_prompt_length": 512, "label_pad_token_id": -100})
    assert "without effect here" in caplog.text
    assert "max_prompt_length, label_pad_token_id" in caplog.text
    assert "columns that are not read, as in TRL: score" in caplog.text


def test_a_subclass_may_override_what_is_called(make, model, tokenizer, tmp_path):
    class Loud(DPOTrainer):
        def log(self, logs, start_time=None):
            super().log({**logs, "loud": 1.0}, start_time)

    trainer = make(kind=Loud)
    trainer.train()
    assert all(line["loud"] == 1.0 for line in trainer.state.log_history)

    class Own(DPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return 0.0

    with pytest.raises(ConfigError, match=r"^Own\.compute_loss is overridden, and nothing here calls it; .*'loss'"):
        make(kind=Own)


class Collates:
    pass


REFUSED = {
    "a wrong keyword": ({"settings": {"learning_rte": 1}}, r"no keyword 'learning_rte'; did you mean learning_rate\?"),
    "a keyword of another": ({"settings": {"desirable_weight": 2}}, "'desirable_weight' is a keyword of KTOConfig"),
    "half precision": ({"settings": {"fp16": True}}, r"fp16=True: half precision .*train\.precision=bfloat16"),
    "an unknown loss": ({"settings": {"loss_type": "bst"}}, "no objective here is 'bst'"),
    "noise": ({"settings": {"neftune_noise_alpha": 5}}, r"neftune_noise_alpha=5: no noise"),
    "compute_metrics": ({"compute_metrics": print}, "compute_metrics: evaluate"),
    "optimizers": ({"optimizers": (object(), None)}, "optimizers: set optim"),
    "a collator": ({"data_collator": Collates()}, "data_collator: a Collates would never be called"),
    "no callback": ({"callbacks": [Collates()]}, "callbacks: a Collates is no TrainerCallback"),
    "a trainer's wrong keyword": ({"tokeniser": 1}, r"DPOTrainer: no keyword 'tokeniser'; did you mean tokenizer\?"),
    "an argument of no kind": ({"config": {"beta": 0.1}}, "args: must be a DPOConfig"),
    "another's configuration": ({"config": KTOConfig("x")}, "a KTOConfig is given to DPOTrainer"),
    "a prompt adapter": ({"peft_config": object()}, "peft_config: a object is no LoraConfig"),
    "a pattern": ({"peft_config": LoraConfig(target_modules=".*proj")}, "is a pattern"),
    "ranks": ({"peft_config": LoraConfig(rank_pattern={"q_proj": 2})}, "rank_pattern=.*has no counterpart"),
    "a range": ({"settings": {"beta": -1.0}}, "DPOConfig: loss: beta must be > 0"),
    "several sets": ({"eval_dataset": {"a": ROWS, "b": ROWS}}, "eval_dataset: several data sets by name"),
    "columns": ({"train_dataset": {"prompt": ["a"]}}, "a mapping of columns is no list of rows"),
    "sharded weights": ({"settings": {"fsdp": "full_shard"}}, "fsdp and deepspeed: a model that is trained in place"),
    "no number": ({"settings": {"beta": "strong"}}, "beta: 'strong' is no number"),
    "too few weights": ({"settings": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}}, "1 weight for 2 losses"),
    "images": ({"train_dataset": [{**row, "image": 1} for row in ROWS]}, "holds images"),
    "no rows": ({"train_dataset": 5}, "a int holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_line_before_anything_is_done(case, make, tmp_path):
    objects, words = REFUSED[case]
    with pytest.raises((ConfigError, DataError), match=words) as refusal:
        make(**objects)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 300
    assert not (tmp_path / "run").exists()


def test_a_reference_that_is_the_model_is_refused(make, model):
    with pytest.raises(ConfigError, match="ref_model: is the model itself"):
        make(ref_model=model)


def test_a_model_of_somebody_else_is_not_replaced(make, model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "theirs")
    before = (tmp_path / "theirs" / "model.safetensors").read_bytes()
    trainer = make()
    with pytest.raises(ConfigError, match="holds a model that this trainer did not write"):
        trainer.save_model(str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / "model.safetensors").read_bytes() == before
    trainer.save_model(str(tmp_path / "mine"))
    trainer.save_model(str(tmp_path / "mine"))


def test_arguments_of_transformers_and_keywords_of_old(model, tokenizer, tmp_path):
    arguments = TrainingArguments(str(tmp_path / "run"), per_device_train_batch_size=5, learning_rate=3e-4, max_steps=2,
                                  logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)  # fmt: skip
    trainer = DPOTrainer(model, None, args=arguments, beta=0.3, max_length=64, max_prompt_length=32, loss_type="ipo",
                         train_dataset=Dataset.from_list(ROWS), tokenizer=tokenizer)  # fmt: skip
    recipe = trainer._start.recipe
    assert (recipe.loss.name, recipe.loss.beta, recipe.loss.length_normalized) == ("ipo", 0.3, True)
    assert (recipe.batch.size, recipe.optim.learning_rate, recipe.data.max_tokens) == (5, 3e-4, 64)
    trainer.train()
    assert trainer.state.global_step == 2
    assert [line["learning_rate"] for line in trainer.state.log_history if "loss" in line] == pytest.approx(
        [3e-4, 1.5e-4]
    )


def test_keys_of_a_recipe_go_before_everything(make):
    keys = {"loss": SimPO(gamma=0.5), "data.on_duplicate": "drop", "train": {"max_steps": 1}}
    config = DPOConfig("x", recipe=keys, **QUICK)
    recipe = make(config=config)._start.recipe
    assert (recipe.loss.name, recipe.loss.gamma, recipe.data.on_duplicate, recipe.train.max_steps) == (
        "simpo",
        0.5,
        "drop",
        1,
    )


def test_the_split_train_of_several_is_trained_on(make):
    sets = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(HELD_OUT))
    assert make(train_dataset=sets, eval_dataset={"held out": HELD_OUT})._parts.train.count == 20


def test_columns_that_a_recipe_renames_are_kept(make):
    rows = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in ROWS]
    config = DPOConfig("x", recipe={"data": {"columns": {"prompt": "question"}}}, **QUICK)
    assert make(config=config, train_dataset=rows)._parts.train.left_out == ()


def test_weights_in_16_bits_stay_so_and_are_those_saved(make, model, tmp_path):
    model.to(torch.bfloat16)
    trainer = make()
    trainer.train()
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
def test_an_adapter_that_the_model_has_is_trained_further(make, model):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    trainer = make(given=adapted, eval_dataset=HELD_OUT, settings={"learning_rate": 0.1})
    trainer.train()
    assert trainer.model is adapted
    assert losses(trainer)[0] == pytest.approx(0.6931472, abs=1e-6)
    assert trainer.evaluate()["eval_loss"] != pytest.approx(0.6931472, abs=1e-3)
    assert trainer.accelerator.is_main_process


@pytest.mark.parametrize(("epochs", "steps"), [(0.3, 2), (0.6, 3), (1.5, 6)])
def test_a_part_of_an_epoch_is_rounded_up(make, epochs, steps):
    trainer = make(settings={"num_train_epochs": epochs})
    trainer.train()
    assert trainer.state.global_step == steps


def test_epochs_and_shares_are_counted_in_steps(make):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 0.1, "num_train_epochs": 5}
    recipe = make(eval_dataset=HELD_OUT, settings=settings)._start.recipe
    assert (recipe.train.eval_every, recipe.train.save_every, recipe.train.log_every) == (4, 4, 2)


def test_other_trainers(make, tokenizer, tmp_path):
    marks = [{"prompt": row["prompt"], "completion": row["chosen"], "label": n % 2 == 0} for n, row in enumerate(ROWS)]
    kto = make(kind=KTOTrainer, train_dataset=marks)
    kto.train()
    assert losses(kto)[0] == pytest.approx(0.5, abs=1e-6)
    texts = [{"content": row["prompt"] + row["chosen"]} for row in ROWS]
    sft = make(kind=SFTTrainer, train_dataset=texts, settings={"dataset_text_field": "content"})
    made = make(kind=SFTTrainer, train_dataset=ROWS, formatting_func=lambda row: row["prompt"] + row["chosen"])
    assert sft._parts.train.count == made._parts.train.count == 20
    sft.train()
    assert losses(sft)[-1] < losses(sft)[0]


def test_a_reward_model(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    trainer = RewardTrainer(
        model=str(tmp_path / "base"), train_dataset=ROWS, eval_dataset=HELD_OUT,
        args=RewardTrainer.config_class(str(tmp_path / "run"), **QUICK),
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before["eval_loss"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.num_labels == 1
    with pytest.raises(ConfigError, match="ref_model: this objective has no reference"):
        ORPOTrainer(model, ORPOConfig("x"), train_dataset=ROWS, tokenizer=tokenizer, ref_model=model)


def test_what_trainers_lack_is_said(make):
    trainer = make()
    with pytest.raises(AttributeError, match=r"DPOTrainer has no 'get_train_dataloader': .*docs/trl\.md"):
        trainer.get_train_dataloader()
    assert SFTConfig("x").learning_rate == 2e-5
    with pytest.raises(AttributeError):
        SFTConfig("x").beta  # noqa: B018
    config = DPOConfig("x")
    config.learning_rate = 1e-4
    assert (config.learning_rate, config.to_dict()["learning_rate"], config.beta) == (1e-4, 1e-4, None)


def test_states_and_metrics_are_written(make, tmp_path, monkeypatch):
    monkeypatch.undo()
    trainer = make()
    metrics = trainer.train().metrics
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    written = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert written["global_step"] == 4
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_loss"] == metrics["train_loss"]
    assert Path(tmp_path / "run" / "report.html").is_file()
