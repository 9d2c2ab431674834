"""`exptilt chat`: which models a run, a folder or a hub id stands for, and how their turns are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exptilt.conversations.model_process import ModelProcess
from exptilt.data.encode.tokens import encode_prompts
from exptilt.errors import ConfigError
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.sampling.generate import sample
from exptilt.sampling.sample_rows import prompt_id
from exptilt.settings.load import dump
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, ReferenceConfig
from exptilt.verbs.chat import chat_request


def changed(recipe, **more):
    (recipe.folder / "config.yaml").write_text(dump(replace(recipe, **more)))
    return str(recipe.folder)


def test_a_run_talks_as_its_recipe_writes_turns_and_its_reference_is_its_start(finished):
    run = changed(finished, data=replace(finished.data, template="plain", fold_system=True))
    request = chat_request(run, ["law.max_new_tokens=4", "seed=2"], against="reference", system="Be kind.")
    assert request.model.path == f"{run}/model"
    assert (request.against.path, request.against.tokenizer) == (f"{run}/sft/model", f"{run}/model")
    assert (request.turns.template, request.turns.fold_system) == ("plain", True)
    assert (request.system, request.seed, request.law.max_new_tokens) == ("Be kind.", 2, 4)
    turns = ({"role": "user", "content": "the film was"},)
    with ModelProcess(request) as models:
        assert models.without_template == ("policy", "reference")  # as the recipe says
        for name, settings in (("policy", request.model), ("reference", request.against)):
            tokenizer = load_tokenizer(settings)
            prompts = encode_prompts(tokenizer, [turns], "plain")
            keys = [prompt_id(turns).encode()]
            drawn = sample(load_model(settings), tokenizer, prompts, law=request.law, seed=2, keys=keys)[0]
            assert "".join(models.answer(name, turns, request.law, seed=2)) == drawn.text(tokenizer)


def test_the_reference_is_what_the_run_was_measured_against(finished):
    base = ModelConfig(path="org/base", revision="v1")
    run = changed(finished, sft=None, model=base, adapter=AdapterConfig(rank=2))
    against = chat_request(run, [], against="reference").against
    assert (against.path, against.revision) == ("org/base", "v1")
    run = changed(finished, sft=None, model=base, adapter=AdapterConfig(path="org/adapter"))
    assert chat_request(run, [], against="reference").against.path == "org/adapter"
    run = changed(finished, sft=None, model=base, reference=ReferenceConfig(model="org/other"))
    assert chat_request(run, [], against="reference").against.path == "org/other"
    run = changed(finished, sft=None)
    with pytest.raises(ConfigError, match="started from random weights"):
        chat_request(run, [], against="reference")


def test_a_mistake_in_a_setting_is_told_with_what_was_meant(finished):
    with pytest.raises(ConfigError, match=r"temperature"):
        chat_request(str(finished.folder), ["law.temperatur=1"])
    with pytest.raises(ConfigError, match="temperature must be >= 0"):
        chat_request(str(finished.folder), ["law.temperature=-1"])
