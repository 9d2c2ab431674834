"""Which model something was made of, from names and files alone."""

import json
import os

from exptilt.judges.model_families import model_names, shared_base, writer_names


def test_an_adapter_a_run_and_their_base_are_kin(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text(f"model: {{path: {adapter}}}\noutput: x\n")
    for one in (adapter, run, run / "model"):
        assert shared_base(model_names(str(base)), model_names(str(one))) == os.path.realpath(base)
    assert shared_base(model_names("Qwen/Qwen2.5-0.5B"), model_names(str(run))) is None


def test_hub_ids_meet_whatever_their_letters_and_their_owner(tmp_path):
    assert shared_base(model_names("meta-llama/Llama-3-8B"), model_names("llama-3-8b")) == "llama-3-8b"
    assert shared_base(model_names("a/one"), model_names("a/other")) is None
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen2.5-0.5B"}))
    assert shared_base(model_names("qwen/qwen2.5-0.5b"), model_names(str(folder))) == "qwen/qwen2.5-0.5b"


def test_samples_say_who_drew_them(tmp_path):
    (tmp_path / "samples.jsonl").write_text("")
    (tmp_path / "sampling.yaml").write_text("identity: abc\nserver: {url: http://localhost, model: Org/M}\n")
    assert {"abc", "org/m"} <= writer_names(str(tmp_path))
    assert writer_names(str(tmp_path / "samples.jsonl")) == writer_names(str(tmp_path))
    assert writer_names(str(tmp_path / "elsewhere" / "answers.jsonl")) == frozenset()


def test_a_circle_of_names_ends(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"_name_or_path": str(tmp_path / other)}))
    assert len(model_names(str(tmp_path / "a"))) == 2
