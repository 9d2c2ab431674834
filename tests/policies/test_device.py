from __future__ import annotations

import pytest
import torch

from exptilt.policies import device
from exptilt.policies.adapters import with_adapter
from exptilt.policies.device import is_quantized, on_device
from exptilt.policies.models import load_model
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


def devices(model):
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


@pytest.fixture(autouse=True)
def _another_device(monkeypatch):
    monkeypatch.setattr(device, "local_device", lambda: torch.device("meta"))


def test_every_tensor_of_a_model_goes_to_this_processs_device_or_to_the_one_named(make_model):
    assert devices(on_device(make_model("llama"), torch.device("cpu"))) == {"cpu"}
    assert devices(on_device(make_model("llama"))) == {"meta"}
    assert devices(on_device(with_adapter(make_model("llama"), AdapterConfig(rank=2)))) == {"meta"}


@pytest.mark.filterwarnings("ignore:.*gemv_4bit")
def test_4_bit_weights_stay_where_they_were_loaded_also_inside_an_adapter(make_model, tmp_path):
    make_model("llama", hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    four = load_model(ModelConfig(path=str(tmp_path), quantize="nf4"))
    assert is_quantized(four)
    assert not is_quantized(make_model("llama"))
    assert devices(on_device(four)) == {"cpu"}
    assert devices(on_device(with_adapter(four, AdapterConfig(rank=2)))) == {"cpu"}
