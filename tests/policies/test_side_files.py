"""What lies beside the weights travels along where it still holds."""

from __future__ import annotations

import json

import pytest

from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.side_files import copy_side_files
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import ModelConfig

KEPT = (
    "preprocessor_config.json",
    "processor_config.json",
    "modeling_own.py",
    "chat_templates/tool_use.jinja",
    "sub/code.py",
    "LICENSE",
    "USE_POLICY.md",
)
STALE = (
    "pytorch_model.bin",
    "README.md",
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    ".hidden.json",
    "x.gguf",
)


@pytest.fixture
def source(make_model, tmp_path):
    folder = tmp_path / "source"
    make_model("llama").save_pretrained(folder)
    train_word_tokenizer(["the film was good"]).save_pretrained(folder)
    for name in (*KEPT, *STALE):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"of {name}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3], "max_length": 99}))
    (folder / "spiece.model").write_text("of the tokenizer")
    return folder


def test_they_are_saved_with_a_model_and_stale_ones_are_not(source, tmp_path) -> None:
    settings = ModelConfig(path=str(source))
    tokenizer = load_tokenizer(settings)
    save_model(load_model(settings, tokenizer), tokenizer, tmp_path / "out")
    for name in (*KEPT, "spiece.model"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name
    assert not [name for name in STALE if (tmp_path / "out" / name).exists()]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [2, 3]


def test_files_of_another_tokenizer_stay_behind(source, tmp_path) -> None:
    train_word_tokenizer(["other words"]).save_pretrained(tmp_path / "words")
    tokenizer = load_tokenizer(ModelConfig(tokenizer=str(tmp_path / "words")))
    save_model(load_model(ModelConfig(path=str(source)), tokenizer), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "spiece.model").exists()
    assert not (tmp_path / "out" / "chat_templates").exists()
    assert (tmp_path / "out" / "preprocessor_config.json").exists()


def test_nothing_written_is_replaced_and_no_source_is_no_fault(source, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "modeling_own.py").write_text("newer")
    assert "modeling_own.py" not in copy_side_files(str(source), tmp_path / "out")
    assert (tmp_path / "out" / "modeling_own.py").read_text() == "newer"
    assert copy_side_files("", tmp_path / "out") == []
    assert copy_side_files(str(tmp_path / "gone"), tmp_path / "out") == []
