from dataclasses import replace

import pytest

from exptilt.sampling.sampling_law import SamplingLaw, require_plain, require_same
from exptilt.settings.load import build, dump
from exptilt.settings.yaml_source import Source


class Tokenizer:
    def __init__(self, eos_token_id):
        self.eos_token_id = eos_token_id


def test_the_default_law_is_the_models_own():
    assert SamplingLaw().is_plain
    require_plain(SamplingLaw(), "the KL")


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.7), ("top_k", 50), ("top_p", 0.9), ("repetition_penalty", 1.1), ("min_new_tokens", 4)],
)
def test_each_setting_that_bends_the_law_is_named(name, value):
    law = SamplingLaw(**{name: value})
    assert law.bends == {name: value}
    with pytest.raises(ValueError, match=rf"the KL needs samples of the model's own.*drawn with {name}={value:g}"):
        require_plain(law, "the KL")


def test_laws_that_differ_are_not_combined():
    law = SamplingLaw(max_new_tokens=24)
    require_same(law, SamplingLaw(max_new_tokens=24), "the frontier")
    with pytest.raises(ValueError, match=r"the frontier needs samples of one sampling law.*max_new_tokens 24 and 32"):
        require_same(law, replace(law, max_new_tokens=32), "the frontier")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0 and finite, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_k": -1}, "top_k must be >= 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens must be in"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingLaw(**settings)


def test_the_end_comes_from_the_tokenizer_from_ids_or_from_the_law():
    assert SamplingLaw().ending_at(Tokenizer(7)).eos_ids == (7,)
    assert SamplingLaw().ending_at((3, 4)).eos_ids == (3, 4)
    assert SamplingLaw(eos_ids=(1,)).ending_at(Tokenizer(7)).eos_ids == (1,)
    with pytest.raises(ValueError, match="has no end token"):
        SamplingLaw().ending_at(Tokenizer(None))


def test_a_law_survives_its_recipe():
    law = SamplingLaw(temperature=0.5, eos_ids=(2, 3))
    source = Source(label="test")
    assert "temperature: 0.5" in dump(law)
    source.values.update({"temperature": 0.5, "eos_ids": [2, 3]})
    assert build(SamplingLaw, source) == law
