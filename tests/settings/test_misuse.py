"""A corpus of mistakes in recipes and overrides: each is told in one line that names the place and, where one exists, what was meant."""

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

RECIPE = """\
model:
  path: some/model
data:
  train: pairs.jsonl
output: out
"""

ON_THE_COMMAND_LINE = {
    # a key of another section, in other letters, or without its section
    "beta=0.2": "loss.beta",
    "BETA=0.2": "loss.beta",
    "Loss.Beta=0.2": "loss.beta",
    "LOSS.beta=0.2": "loss.beta",
    "learning_rate=1e-5": "optim.learning_rate",
    "learning-rate=1e-5": "optim.learning_rate",
    "Learning_Rate=1e-5": "optim.learning_rate",
    "train.learning_rate=1e-5": "optim.learning_rate",
    "loss.learning_rate=1e-5": "optim.learning_rate",
    "epochs=3": "train.epochs",
    "optim.epochs=3": "train.epochs",
    "training.epochs=3": "train.epochs",
    "max_steps=10": "train.max_steps",
    "rank=8": "adapter.rank",
    "model.rank=8": "adapter.rank",
    "peft.rank=8": "adapter.rank",
    "alpha=8": "adapter.alpha",
    "lora.dropout=0.1": "dropout",
    "max_tokens=512": "data.max_tokens",
    "batch.max_tokens=512": "data.max_tokens",
    "model.max_tokens=512": "data.max_tokens",
    "quantize=nf4": "model.quantize",
    "trust_remote_code=true": "model.trust_remote_code",
    "warmup_ratio=0.1": "optim.warmup_ratio",
    "weight_decay=0.1": "optim.weight_decay",
    "test_fraction=0.1": "data.test_fraction",
    "columns={}": "data.columns",
    "num_prompts=3": "evaluate.num_prompts",
    "stop_if=alarm": "train.stop_if",
    "precision=bfloat16": "train.precision",
    "label_smoothing=0.1": "loss.label_smoothing",
    "num_layers=2": "model.config.num_layers",
    "model.num_layers=2": "model.config.num_layers",
    # spelling
    "optim.learnin_rate=1e-5": "learning_rate",
    "optim.learningrate=1e-5": "learning_rate",
    "lerning_rate=1e-5": "optim.learning_rate",
    "adapter.rnak=8": "rank",
    "adapter.taregts=[q_proj]": "targets",
    "data.tset=x": "test",
    "data.trian=x": "train",
    "data.on_duplicates=drop": "on_duplicate",
    "train.epoch=3": "epochs",
    "train.saveevery=3": "save_every",
    "evaluat.level=0.9": "evaluate.level",
    "refrence.model=x": "reference.model",
    "parallel.kinds=ddp": "kind",
    "otuput=x": "output",
    "sead=1": "seed",
    "loss.bata=0.1": "beta",
    "loss.lable_smoothing=0.1": "label_smoothing",
    # a key of another loss
    "loss.gamma=2": "simpo",
    "loss.desirable_weight=2": "kto",
    "loss.lam=1": "orpo",
    "loss.terms=[]": "mixture",
    # other tools
    "lr=1e-5": "optim.learning_rate",
    "optim.lr=1e-5": "optim.learning_rate",
    "train.bf16=true": "train.precision=bfloat16",
    "loss_type=sigmoid": "loss=dpo",
    "loss_type=ipo": "loss=ipo",
    "rl=kto": "loss=kto",
    "pref_loss=orpo": "loss=orpo",
    "lora_r=8": "adapter.rank",
    "adapter.lora_alpha=8": "adapter.alpha",
    "num_train_epochs=3": "train.epochs",
    "per_device_train_batch_size=4": "batch.size",
    "gradient_accumulation_steps=4": "batch.size",
    "max_prompt_length=128": "data.max_tokens",
    "warmup_steps=10": "optim.warmup_steps",
    "model_name_or_path=x": "model.path",
    "ref_model=x": "reference.model",
    "output_dir=x": "output",
    "dataset_name=x": "data.train",
    # values
    "loss=dop": "dpo",
    "loss=DPO": "dpo",
    "loss.name=simp": "simpo",
    "loss=sigmoid": "unknown name 'sigmoid'; it is 'dpo' here",
    "loss=xyz": "`exptilt config loss` lists the names",
    "optim.name=adam": "'adamw'",
    "optim.schedule=cosin": "'cosine'",
    "parallel.kind=dpp": "'ddp'",
    "train.precision=fp16": "'bfloat16'",
    "train.resume=always": "'auto'",
    "data.format=preferences": "did you mean 'preference'?",
    "data.format=xyz": "`exptilt config data.format` lists",
    "data.on_tie=ignore": "on_tie",
    "data.labels=01": "labels",
    "model.dtype=float16": "'float32'",
    "model.quantize=int4": "'nf4'",
    "data.template=chatml": "'chat'",
    # numbers are numbers, and booleans are booleans
    "optim.learning_rate=true": "must be a valid number, got true",
    "optim.learning_rate=1_0": "must be a valid number, got '1_0'",
    "optim.learning_rate='1e-5'": "must be a valid number",
    "optim.learning_rate=fast": "must be a valid number",
    "optim.learning_rate=null": "must be a valid number",
    "optim.learning_rate=[1]": "must be a valid number",
    "optim.learning_rate={}": "must be a valid number",
    "optim.learning_rate=1,5": "must be a valid number",
    "optim.learning_rate=1e": "must be a valid number",
    "train.max_steps=10.5": "max_steps",
    "train.max_steps=false": "max_steps",
    "train.epochs=yes": "epochs",
    "batch.size=true": "batch.size",
    "batch.size=8x": "batch.size",
    "seed=x": "seed",
    "seed=1.5": "seed",
    "train.compile=1": "train.compile",
    "train.compile='true'": "train.compile",
    "batch.shuffle=0": "batch.shuffle",
    "model.path=3": "model.path",
    "output=[out]": "output",
    "data.train=5": "data.train",
    # ranges
    "optim.learning_rate=0": "learning_rate must be > 0",
    "optim.learning_rate=-1e-5": "learning_rate must be > 0",
    "optim.learning_rate=.nan": "learning_rate must be > 0",
    "optim.beta1=1": "beta1 must be in [0, 1)",
    "optim.warmup_ratio=2": "warmup_ratio must be in [0, 1)",
    "optim.weight_decay=-1": "weight_decay must be >= 0",
    "optim.max_grad_norm=0": "max_grad_norm must be > 0",
    "train.epochs=0": "epochs must be > 0",
    "train.epochs=-1": "epochs must be > 0",
    "train.max_steps=0": "max_steps must be >= 1",
    "train.log_every=0": "log_every must be >= 1",
    "train.keep_checkpoints=0": "keep_checkpoints must be >= 1",
    "train.patience=-1": "patience must be >= 0",
    "train.patience=3": "patience needs best",
    "train.best=min loss": "best compares held-out metrics",
    "train.best=lowest eval/loss": "best reads",
    'train.best="min eval/loss"': "best needs eval_every",
    'train.stop_if=["loss >> 3"]': "stop_if reads",
    "train.stop_if=[runway]": "stop_if reads",
    "loss.beta=0": "beta must be > 0",
    "loss.beta=-0.1": "beta must be > 0",
    "loss.beta=big": "loss.beta: must be a valid number",
    "loss.label_smoothing=0.5": "label_smoothing must be",
    "loss.label_smoothing=1": "label_smoothing must be",
    "adapter.rank=0": "rank",
    "adapter.dropout=1": "dropout",
    "model.dropout=1": "dropout",
    "data.test_fraction=1": "test_fraction",
    "data.test_fraction=-0.1": "test_fraction",
    "data.max_tokens=0": "max_tokens",
    "data.limit=0": "limit",
    "batch.size=0": "size",
    "seed=-1": "seed must be in [0, 2**32)",
    "parallel.cpu_offload=true": "cpu_offload needs kind=fsdp",
    "evaluate.level=1": "level",
    "reference.mix=0": "mix",
    # lists of sources
    "data.train=[]": "train must name at least one source",
    "data.train=[a.jsonl, a.jsonl]": "write {path: a.jsonl, weight: 2}",
    "data.train=[a.jsonl, 5]": "data.train.1: must be a valid string",
    "data.train=[{path: a.jsonl, wieght: 2}]": "data.train.0.wieght: unknown key; did you mean 'weight'?",
    "data.train=[{path: a.jsonl, weight: x}]": "data.train.0.weight: must be a valid number",
    "data.train=[{path: a.jsonl, weight: -1}]": "data.train.0: weight must be at least 0",
    "data.train=[{weight: 1}]": "data.train.0.path: missing",
    "data.test=[5]": "data.test.0: must be a valid string",
    # sections and forms
    "loss=null": "must hold keys of its own",
    "optim=null": "such as optim.name",
    "optim=fast": "optim.name: must be 'adamw'",
    "adapter=3": "such as adapter.path",
    "data=pairs.jsonl": "such as data.train",
    "model=some/model": "such as model.path",
    "batch=16": "such as batch.size",
    "data.mixture=x.jsonl": "data.mixture",
    "flux=3": "known: output, seed, model",
    "trl.x=3": "known: output, seed, model",
    "train.max_steps": "not of the form key=value",
    "=3": "not of the form key=value",
    "optim.learning_rate={": "not valid YAML",
    "data.columns=[a": "not valid YAML",
    "output=": "output",
}

IN_THE_FILE = {
    "loss:\n  name: dpo\n  bata: 0.2\n": ("line 8", "beta"),
    "loss: {name: dop}\n": ("line 6", "dpo"),
    "loss: dop\n": ("line 6", "dpo"),
    "Loss:\n  beta: 0.2\n": ("line 6", "loss.beta"),
    "beta: 0.2\n": ("line 6", "loss.beta"),
    "lr: 1.0e-5\n": ("line 6", "optim.learning_rate"),
    "optim:\n  lr: 1.0e-5\n": ("line 7", "optim.learning_rate"),
    "optim:\n  learning_rate: true\n": ("line 7", "must be a valid number, got true"),
    "optim:\n  learning_rate: 1_0\n": ("line 7", "got '1_0'"),
    "optim:\n  learning_rate: 1e-5\n  learning_rate: 1e-6\n": ("line 8", "written twice"),
    "train:\n  epochs: -1\n": ("line 7", "epochs must be > 0"),
    "train: 3\n": ("line 6", "must hold keys of its own"),
    "train:\n  - epochs\n": ("line 6", "must hold keys of its own"),
    "adapter:\n  lora_r: 8\n": ("line 7", "adapter.rank"),
    "rl: dpo\n": ("line 6", "loss=dpo"),
    "training_args:\n  num_train_epochs: 3\n": ("line 6", "train.epochs"),
    "loss:\n  name: mixture\n  terms:\n    - loss: {name: dpo, bata: 1}\n": ("line 9", "beta"),
    "train: {epochs: [}\n": ("line 6", "not valid YAML"),
    "  indented: 1\n": ("line", "not valid YAML"),
    "\tseed: 1\n": ("line 6", "not valid YAML"),
    "seed: 0x\n": ("line 6", "seed"),
    "output: twice\n": ("line 6", "written twice"),
}


def _line(tmp_path, more="", *overrides):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE + more)
    with pytest.raises(ConfigError) as refusal:
        load(Recipe, recipe, overrides)
    (line,) = str(refusal.value).splitlines()
    assert len(line) < 300
    assert "pydantic" not in line
    assert "Input should" not in line
    return line


@pytest.mark.parametrize("override", ON_THE_COMMAND_LINE)
def test_a_mistake_on_the_command_line(tmp_path, override):
    line = _line(tmp_path, "", override)
    assert line.startswith("command line")
    assert ON_THE_COMMAND_LINE[override] in line


@pytest.mark.parametrize("more", IN_THE_FILE)
def test_a_mistake_in_the_file(tmp_path, more):
    line = _line(tmp_path, more)
    place, meant = IN_THE_FILE[more]
    assert f"r.yaml {place}" in line
    assert meant in line


def test_the_corpus_is_large_enough():
    assert len(ON_THE_COMMAND_LINE) + len(IN_THE_FILE) >= 160


def test_the_order_of_overrides_makes_no_difference(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    wanted = ["loss.beta=0.3", "loss=ipo", "optim.learning_rate=1e-4", "adapter={rank: 4}", "adapter.alpha=8"]
    first = load(Recipe, recipe, wanted)
    assert first == load(Recipe, recipe, wanted[::-1])
    assert (first.loss.name, first.loss.beta, first.adapter.rank, first.adapter.alpha) == ("ipo", 0.3, 4, 8)


def test_of_one_key_given_twice_the_last_value_counts():
    assert load(Recipe, None, ["output=o", "model.path=m", "data.train=t", "seed=1", "seed=2"]).seed == 2


def test_another_loss_keeps_the_keys_it_has_and_says_which_it_leaves_out(tmp_path, caplog):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE + "loss:\n  name: dpo\n  beta: 0.3\n  label_smoothing: 0.1\n")
    assert load(Recipe, recipe, ["loss=ipo"]).loss.beta == 0.3
    (record,) = caplog.records
    assert record.getMessage() == f"{recipe} line 9: loss.label_smoothing: left out, ipo has no such key"
    with pytest.raises(ConfigError, match="label_smoothing: unknown key"):
        load(Recipe, recipe, ["loss.name=ipo"])
    assert load(Recipe, recipe, ["loss={name: ipo}"]).loss.beta == 0.1


def test_a_single_value_stands_for_a_list_of_one(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    assert load(Recipe, recipe, ["train.report_to=wandb"]).train.report_to == ("wandb",)
    assert load(Recipe, recipe, ["train.stop_if=loss > 3"]).train.stop_if == ("loss > 3",)


def test_a_recipe_that_was_forgotten_is_named():
    with pytest.raises(ConfigError, match=r"loss\.beta=0\.2 stands where the recipe should"):
        load(Recipe, "loss.beta=0.2")
