from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from exptilt.errors import ModelError
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.settings.model_settings import ModelConfig


def test_a_model_from_scratch_gets_a_tokenizer_of_its_own_text_once(make_recipe):
    recipe = make_recipe()
    recipe.folder.mkdir()
    tokenizer = find_tokenizer(recipe.model, recipe.data, recipe.folder)
    assert len(tokenizer) <= 300
    assert tokenizer.decode(tokenizer.encode(" Yes, it is wet.", add_special_tokens=False)) == " Yes, it is wet."
    assert len(tokenizer.encode(" Yes, it is wet.")) < len(" Yes, it is wet.")  # it learnt merges
    kept = (recipe.folder / "tokenizer" / "tokenizer.json").read_bytes()
    (recipe.folder.parent / "pairs.jsonl").write_text('{"prompt": "x", "chosen": "y", "rejected": "z"}\n')
    assert find_tokenizer(recipe.model, recipe.data, recipe.folder).get_vocab() == tokenizer.get_vocab()
    assert (recipe.folder / "tokenizer" / "tokenizer.json").read_bytes() == kept


def test_held_out_text_is_not_learnt_from(make_recipe, write_rows, pairs):
    recipe = make_recipe()
    secret = [row | {"chosen": " zyzzyva zyzzyva zyzzyva"} for row in pairs(20, "xqj")]
    recipe = replace(recipe, data=replace(recipe.data, test=str(write_rows("test.jsonl", secret)), test_fraction=0.0))
    recipe.folder.mkdir()
    assert not [
        token for token in find_tokenizer(recipe.model, recipe.data, recipe.folder).get_vocab() if "zy" in token
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "no model given: set model.path to a folder or hub id, or model.config"),
        ({"path": "EMPTY"}, "model.path: EMPTY: is no tokenizer folder"),
        ({"path": "x", "tokenizer": "EMPTY"}, "model.tokenizer: EMPTY: is no tokenizer folder"),
        ({"path": "./none"}, "model.path: ./none: no such folder"),
    ],
)
def test_a_tokenizer_that_is_none_names_its_key(make_recipe, tmp_path, settings, expected):
    empty = str(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    model = ModelConfig(**{name: value.replace("EMPTY", empty) for name, value in settings.items()})
    with pytest.raises(ModelError) as caught:
        find_tokenizer(model, make_recipe().data)
    assert expected.replace("EMPTY", empty) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_template_of_the_recipe_goes_into_the_folder_of_the_model(make_recipe, tmp_path):
    recipe = make_recipe()
    recipe.folder.mkdir()
    find_tokenizer(recipe.model, recipe.data).save_pretrained(tmp_path / "base")
    model = ModelConfig(config=recipe.model.config, tokenizer=str(tmp_path / "base"))
    data = replace(recipe.data, chat_template="gemma")
    find_tokenizer(model, data).save_pretrained(tmp_path / "trained")
    turns = [{"role": "user", "content": "Q"}]
    saved = AutoTokenizer.from_pretrained(tmp_path / "trained")
    text = saved.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n"
