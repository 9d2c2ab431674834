"""What the front doors cost: lines and names of the usual scripts here and in TRL, and CPU seconds until a command answers.

python benchmarks/front_doors.py [--rounds 5]

Lines are those with code; names are different identifiers a person has to know: imports, calls, attributes, keywords. The
scripts are written for this file, in the shape that TRL's documentation and ours give them. CPU seconds are of a fresh process
and its children, the least of several rounds, beside those of an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import ast
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TRL = {
    "DPO": """
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
reference = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
rows = load_dataset("trl-lib/ultrafeedback_binarized")
config = DPOConfig(output_dir="runs/dpo", per_device_train_batch_size=4, gradient_accumulation_steps=16,
                   learning_rate=5e-7, num_train_epochs=1, beta=0.1, max_length=2048)
trainer = DPOTrainer(model=model, ref_model=reference, args=config, train_dataset=rows["train"], processing_class=tokenizer)
trainer.train()
trainer.save_model("runs/dpo")
""",
    "DPO with LoRA": """
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
rows = load_dataset("trl-lib/ultrafeedback_binarized")
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.05, task_type="CAUSAL_LM")
config = DPOConfig(output_dir="runs/lora", learning_rate=5e-6, beta=0.1)
trainer = DPOTrainer(model=model, args=config, train_dataset=rows["train"], processing_class=tokenizer, peft_config=lora)
trainer.train()
trainer.save_model("runs/lora")
""",
    "ORPO": """
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B")
rows = load_dataset("trl-lib/ultrafeedback_binarized")
config = ORPOConfig(output_dir="runs/orpo", learning_rate=8e-6, beta=0.1)
trainer = ORPOTrainer(model=model, args=config, train_dataset=rows["train"], processing_class=tokenizer)
trainer.train()
trainer.save_model("runs/orpo")
""",
    "KTO": """
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
reference = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
rows = load_dataset("trl-lib/kto-mix-14k")
config = KTOConfig(output_dir="runs/kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
trainer = KTOTrainer(model=model, ref_model=reference, args=config, train_dataset=rows["train"], processing_class=tokenizer)
trainer.train()
trainer.save_model("runs/kto")
""",
    "held-out accuracy": """
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("runs/dpo").eval()
tokenizer = AutoTokenizer.from_pretrained("runs/dpo")
rows = load_dataset("trl-lib/ultrafeedback_binarized", split="test")
def logp(messages, prompt):
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt")
    start = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True))
    with torch.no_grad():
        logps = model(ids).logits[0, :-1].log_softmax(-1)
    return logps.gather(-1, ids[0, 1:, None]).squeeze(-1)[start - 1:].sum().item()
right = [logp(row["chosen"], row["chosen"][:-1]) > logp(row["rejected"], row["rejected"][:-1]) for row in rows]
print(sum(right) / len(right))
""",
}
OURS = {
    "DPO": "exptilt train recipe.yaml model.path=Qwen/Qwen2.5-0.5B-Instruct data.train=trl-lib/ultrafeedback_binarized",
    "DPO with LoRA": "exptilt train recipes/ultrafeedback-lora.yaml",
    "ORPO": "exptilt train recipe.yaml loss=orpo optim.learning_rate=8e-6 model.path=Qwen/Qwen2.5-0.5B",
    "KTO": "exptilt train recipe.yaml loss=kto data.train=trl-lib/kto-mix-14k",
    "held-out accuracy": "exptilt evaluate runs/dpo data.test=trl-lib/ultrafeedback_binarized",
}
RECIPE = "output: run\nmodel: {path: m}\ndata: {train: rows.jsonl}\n"
COMMANDS = {
    "an interpreter": ["-c", "pass"],
    "import exptilt": ["-c", "import exptilt"],
    "import typer": ["-c", "import typer"],
    "--help": ["-m", "exptilt", "--help"],
    "train --help": ["-m", "exptilt", "train", "--help"],
    "a typo of a key": ["-m", "exptilt", "train", "r.yaml", "loss.bet=1"],
    "a missing folder": ["-m", "exptilt", "train", "r.yaml", "model.path=./none"],
    "a missing column": ["-m", "exptilt", "train", "r.yaml", "data.columns={prompt: qestion}"],
    "config loss.dpo": ["-m", "exptilt", "config", "loss.dpo"],
    "init --from": ["-m", "exptilt", "init", "new.yaml", "--force", "--from", "rows.jsonl"],
    "import trl, DPOTrainer": ["-c", "from trl import DPOTrainer"],
}


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    print(f"{'script':<20} {'TRL: lines':>11} {'names':>6}   {'here: words':>12} {'names':>6}")
    for name, script in TRL.items():
        lines, names = size_of(script)
        words = OURS[name].split()
        keys = {word.partition("=")[0] for word in words[2:] if "=" in word}
        print(f"{name:<20} {lines:>11} {names:>6}   {len(words):>12} {len(keys) + 2:>6}")
    print(f"\n{'command':<24} {'CPU s':>6} {'status':>7}")
    with tempfile.TemporaryDirectory() as home:
        prepare(Path(home))
        for name, words in COMMANDS.items():
            seconds, status = cheapest([sys.executable, *words], home, rounds)
            print(f"{name:<24} {seconds:>6.2f} {status:>7}")


def size_of(script: str) -> tuple[int, int]:
    """Lines of code, and different names a person has to know.

    Example:
        >>> size_of("from a import b\\nb(c=1).d()\\n")
        (2, 4)
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            names.add(node.arg)
    return sum(1 for line in script.splitlines() if line.strip()), len(names)


def prepare(home: Path) -> None:
    """A recipe, rows, and a folder that passes for a model's."""
    (home / "r.yaml").write_text(RECIPE)
    row = '{"prompt": "a %d", "chosen": "b", "rejected": "c"}\n'
    (home / "rows.jsonl").write_text("".join(row % number for number in range(200)))
    model = home / "m"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def cheapest(words: list[str], home: str, rounds: int) -> tuple[float, int]:
    """The least CPU seconds of a command over some rounds, and its exit status."""
    least, status = float("inf"), 0
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        status = subprocess.run(words, cwd=home, capture_output=True).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least, status


if __name__ == "__main__":
    main()
