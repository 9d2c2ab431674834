"""What leaves a run folder: merged and copied models, their cards, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from exptilt.cli import app
from exptilt.data.groups import Completion, Group
from exptilt.errors import CheckpointError, ConfigError, ModelError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.models import load_model
from exptilt.policies.publish import publish
from exptilt.policies.saving import save_model
from exptilt.policies.scoring import score
from exptilt.reports.model_card import write_card
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import Caution
from exptilt.settings.load import dump
from exptilt.settings.model_settings import AdapterConfig, ModelConfig
from exptilt.verbs.export import export

ROW = Group(
    id="r:1",
    prompt=np.array([3, 4], np.int32),
    completions=tuple(Completion(np.array(ids, np.int32), np.ones(len(ids), bool)) for ids in ([5, 6, 7], [8, 9])),
)


def logps(folder):
    model = load_model(ModelConfig(path=str(folder)))
    with torch.no_grad():
        return score(model, [ROW]).tokens()


def put_adapter(run, dtype=None, **settings):
    """Make the finished run one of an adapter, with a second matrix that is not zero; its base is the supervised model."""
    base = load_model(ModelConfig(path=str(run / "sft" / "model"), dtype=dtype or "auto"))
    if dtype is not None:
        save_model(base, None, run / "base")
        base = load_model(ModelConfig(path=str(run / "base")))
    model = with_adapter(base, AdapterConfig(rank=2, **settings))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    save_model(model, AutoTokenizer.from_pretrained(run / "sft" / "model"), run / "model")


@pytest.mark.parametrize("settings", [{}, {"dora": True}], ids=["lora", "dora"])
def test_a_merged_model_is_that_of_base_and_adapter_in_plain_transformers(finished, settings):
    run = finished.folder
    put_adapter(run, **settings)
    folder = export(run, merge=True)
    assert folder == run / "merged"
    assert not (folder / "adapter_config.json").exists()
    assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<eos>"
    torch.testing.assert_close(logps(folder), logps(run / "model"), atol=1e-5, rtol=0)
    assert float((logps(folder) - logps(run / "sft" / "model")).abs().max()) > 0.01
    assert "adapter of the run is merged" in (folder / "README.md").read_text()


def test_a_merged_model_has_the_dtype_of_its_base_and_is_rounded_once(finished):
    run = finished.folder
    put_adapter(run, dtype="bfloat16")
    merged = AutoModelForCausalLM.from_pretrained(export(run, merge=True))
    assert merged.dtype == torch.bfloat16
    whole = load_model(ModelConfig(path=str(run / "model"))).float().merge_and_unload()
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name].bfloat16()), name


def test_a_copy_elsewhere_is_the_model_with_a_card(finished, tmp_path):
    folder = export(finished.folder, output=tmp_path / "away" / "model")
    assert torch.equal(logps(folder), logps(finished.folder / "model"))
    assert (folder / "README.md").read_text() == (finished.folder / "model" / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_card_that_was_edited_is_left_alone(finished):
    (finished.folder / "model" / "README.md").write_text("mine")
    assert (export(finished.folder) / "README.md").read_text() == "mine"


def test_what_cannot_be_exported_says_why(finished, tmp_path):
    with pytest.raises(ModelError, match="is a whole model already, there is no adapter to merge; leave out --merge"):
        export(finished.folder, merge=True)
    assert not (finished.folder / "merged").exists()
    with pytest.raises(CheckpointError, match="is not a run folder"):
        export(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"is not an empty folder; choose another --output"):
        export(finished.folder, output=finished.folder / "sft")
    put_adapter(finished.folder)
    (finished.folder / "sft").rename(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"its base model .* is not there"):
        export(finished.folder, merge=True)
    RunFolder(finished.folder).update_manifest(status="stopped")
    with pytest.raises(CheckpointError, match="is not finished; go on with"):
        export(finished.folder, merge=True)


def test_a_card_tells_what_the_run_knows_and_no_place_of_this_machine(finished):
    folder = RunFolder(finished.folder)
    caution = Caution(
        step=40, name="kl", message="samples are 31 nats away", advice="raise loss.beta", value=31.0, limit=30.0
    )
    folder.update_manifest(warnings=(caution,))
    text = write_card(folder).read_text()
    card, evaluation = ModelCard(text), folder.read("evaluation.json")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert "dpo" in card.data.tags
    assert card.data.base_model is None
    accuracy = evaluation["accuracy"]["with_reference"]["sum"]
    result = card.data.eval_results[0]
    assert (result.metric_type, result.metric_value) == ("accuracy", round(accuracy["value"], 6))
    assert result.metric_args["low"] == accuracy["low"]
    kl = evaluation["kl"]
    assert (
        f"| KL to the reference, nats a completion | {kl['value']:.3f} | [{kl['low']:.3f}, {kl['high']:.3f}] |" in text
    )
    rows = folder.read("data.json")["train"]["rows"]
    assert f"| training | {rows} | 23 | none |" in text
    assert "- Step 40: samples are 31 nats away. Advice: raise loss.beta" in text
    assert f"torch {torch.__version__}" in text
    assert str(finished.folder.parent) not in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["data"]["train"] == "pairs.jsonl"
    assert recipe["optim"]["learning_rate"] == 1e-3


def test_a_card_links_what_the_hub_has(finished):
    (finished.folder / "config.yaml").write_text(
        dump(
            replace(
                finished,
                model=replace(finished.model, path="org/base", config=None),
                data=replace(finished.data, train="org/rows"),
            )
        )
    )
    card = ModelCard(write_card(RunFolder(finished.folder)).read_text())
    assert card.data.base_model == "org/base"
    assert card.data.datasets == ["org/rows"]


class Hub:
    """Takes what it is given."""

    def __init__(self, fault=None):
        self.calls, self.fault = [], fault

    def create_repo(self, repo_id, **settings):
        self.calls.append(("create", repo_id, settings))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, **settings):
        if self.fault:
            raise self.fault
        self.calls.append(("upload", settings["repo_id"], settings["folder_path"]))


def test_publishing_makes_the_repository_and_uploads_the_folder(finished):
    hub, model = Hub(), finished.folder / "model"
    publish(model, "tilted", private=True, api=hub)
    assert hub.calls == [
        ("create", "tilted", {"private": True, "exist_ok": True, "repo_type": "model"}),
        ("upload", "me/tilted", str(model)),
    ]


def test_what_the_hub_refuses_is_one_line(finished):
    response = SimpleNamespace(headers={}, request=None, status_code=401)
    fault = HfHubHTTPError("401: no\nmore of it", response=response)
    with pytest.raises(ModelError, match=r"^tilted: the hub took nothing \(401: no.*\); `hf auth login`"):
        publish(finished.folder / "model", "tilted", api=Hub(fault))


def test_an_adapter_whose_base_is_here_alone_is_not_published(finished):
    put_adapter(finished.folder)
    hub = Hub()
    with pytest.raises(ModelError, match=r"base is a folder of this machine, .*; add --merge"):
        publish(finished.folder / "model", "tilted", api=hub)
    assert hub.calls == []


def test_the_command(finished, monkeypatch):
    seen = []
    monkeypatch.setattr("exptilt.policies.publish.publish", lambda *given, **more: seen.append((given, more)) or "hub")
    put_adapter(finished.folder)
    result = CliRunner().invoke(app, ["export", str(finished.folder), "--merge", "--push", "me/tilted", "--private"])
    assert result.exit_code == 0, result.output
    merged = finished.folder / "merged"
    assert result.stdout.split() == ["model:", str(merged), "published:", "hub"]
    assert "merged: log-probabilities differ by at most" in result.stderr
    assert seen == [((merged, "me/tilted"), {"private": True})]
    assert 'from_pretrained("me/tilted")' in (merged / "README.md").read_text()
    nothing = CliRunner().invoke(app, ["export", str(finished.folder)])
    assert isinstance(nothing.exception, ConfigError)
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
