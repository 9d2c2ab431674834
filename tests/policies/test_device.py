from __future__ import annotations

from pathlib import Path

import pytest
import torch

import exptilt
from exptilt.policies import device
from exptilt.policies.adapters import with_adapter
from exptilt.policies.device import is_quantized, model_on_device
from exptilt.policies.models import load_model
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


def devices(model):
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


@pytest.fixture(autouse=True)
def _another_device(monkeypatch):
    monkeypatch.setattr(device, "local_device", lambda: torch.device("meta"))


def test_every_tensor_of_a_model_goes_to_this_processs_device_or_to_the_one_named(make_model):
    assert devices(model_on_device(make_model("llama"), torch.device("cpu"))) == {"cpu"}
    assert devices(model_on_device(make_model("llama"))) == {"meta"}
    assert devices(model_on_device(with_adapter(make_model("llama"), AdapterConfig(rank=2)))) == {"meta"}


@pytest.mark.filterwarnings("ignore:.*gemv_4bit")
def test_4_bit_weights_stay_where_they_were_loaded_also_inside_an_adapter(make_model, tmp_path):
    make_model("llama", hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    four = load_model(ModelConfig(path=str(tmp_path), quantize="nf4"))
    assert is_quantized(four)
    assert not is_quantized(make_model("llama"))
    assert devices(model_on_device(four)) == {"cpu"}
    assert devices(model_on_device(with_adapter(four, AdapterConfig(rank=2)))) == {"cpu"}


def test_no_other_file_chooses_a_models_device():
    """`local_device` is asked by what gives devices to models, to shards, to 4-bit weights and to messages between processes."""
    source = Path(exptilt.__file__).parent
    callers = {
        path.relative_to(source).as_posix() for path in source.rglob("*.py") if "local_device()" in path.read_text()
    }
    choosing = {"policies/device.py", "policies/sharding.py", "policies/models.py"}
    assert callers == choosing | {"processes/world.py", "processes/launch.py", "runs/run_models.py"}
    assert "to(local_device())" not in (source / "runs/run_models.py").read_text()  # it only names the device
    for path in source.rglob("*.py"):
        assert 'to("cuda"' not in path.read_text(), path
