import pytest
import torch

from exptilt.errors import ConfigError
from exptilt.planning import devices
from exptilt.planning.devices import GPUS, parse_fleet, this_machine


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100-80GB", 8, "H100-80GB"),
        ("1xH200", 1, "H200"),
        (" 2 x a100-40gb", 2, "A100-40GB"),
        ("h100", 1, "H100-80GB"),
    ],
)
def test_a_fleet_is_a_count_and_a_name(text, count, name):
    fleet = parse_fleet(text)
    assert (fleet.count, fleet.device.name, fleet.here) == (count, name, False)


@pytest.mark.parametrize("text", ["8xH10O-80GB", "0xH200", "", "8 H100"])
def test_an_unknown_device_is_one_line_with_the_known_ones(text):
    with pytest.raises(ConfigError, match=r"--gpus .*unknown device.*H200.*write it as 8xH100-80GB") as error:
        parse_fleet(text)
    assert "\n" not in str(error.value)
    assert ("did you mean 'H100-80GB'" in str(error.value)) == text.startswith("8xH10O")


def test_a_rate_is_a_share_of_the_peak_in_the_products_precision():
    gpu = GPUS["A100-80GB"]
    assert gpu.rate(torch.bfloat16) == pytest.approx(0.4 * 312e12)
    assert gpu.rate(torch.float32) == pytest.approx(0.4 * 19.5e12)  # TF32 is not what torch does unasked
    assert "assumption" in gpu.note


def test_without_a_gpu_this_machine_is_its_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert this_machine() == parse_fleet("cpu") or this_machine().device.name == parse_fleet("cpu").device.name
    assert this_machine().here
    assert this_machine().device.memory > 1e8


def test_a_gpu_is_known_by_its_drivers_name():
    assert devices._nearest("NVIDIA H100 80GB HBM3") == GPUS["H100-80GB"]
    assert devices._nearest("NVIDIA GeForce RTX 4090") == GPUS["RTX4090-24GB"]
    assert devices._nearest("NVIDIA GeForce GTX 1080") is None
