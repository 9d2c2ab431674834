"""Networks of MONAI as segmenters: by name, saved whole, and what cannot be one."""

from __future__ import annotations

import builtins

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.segmenters.monai_nets import MonaiNet, MonaiShape
from exptilt.policies.segmenters.segmenter_files import channels_of, classes_of, load_segmenter, save_segmenter
from exptilt.settings.mask_settings import MonaiSettings, SegmenterConfig


@pytest.fixture(autouse=True)
def monai():
    return pytest.importorskip("monai", reason="pip install 'exptilt[monai]'")


def named(net, **arguments):
    return SegmenterConfig(monai=MonaiSettings(net=net, channels=1, arguments=arguments))


@pytest.mark.parametrize(
    ("net", "arguments"), [("BasicUNet", {"features": [8, 8, 8, 8, 8, 8]}), ("SegResNet", {"init_filters": 8})]
)
def test_a_network_is_made_scored_and_loaded_again(net, arguments, tmp_path):
    segmenter = load_segmenter(named(net, **arguments), 3, seed=1)
    assert (channels_of(segmenter), classes_of(segmenter)) == (1, 3)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        found = segmenter.log_probabilities(images)
        expected = torch.log_softmax(segmenter.network.net(images), 1)
    assert torch.equal(found, expected)
    assert load_segmenter(named(net, **arguments), 3, seed=1).fingerprint() == segmenter.fingerprint()
    save_segmenter(segmenter, tmp_path / "model")
    again = load_segmenter(SegmenterConfig(path=str(tmp_path)), 3)
    assert again.fingerprint() == segmenter.fingerprint()
    with pytest.raises(ModelError, match="has 3 classes"):
        load_segmenter(SegmenterConfig(path=str(tmp_path)), 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (named("NoSuchNet"), "has no network 'NoSuchNet'"),
        (named("BasicUNet", depth=3), "BasicUNet cannot be built"),
    ],
)
def test_what_cannot_be_built_is_one_line(settings, words):
    with pytest.raises(ModelError, match=words):
        load_segmenter(settings, 2)


def test_a_classifier_gives_no_class_to_each_pixel():
    segmenter = load_segmenter(named("DenseNet121"), 2)
    with pytest.raises(ModelError, match=r"gives logits \(B, classes, h, w\)"):
        segmenter.log_probabilities(torch.zeros(1, 1, 64, 64))


def test_without_monai_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "monai":
            raise ModuleNotFoundError("No module named 'monai'", name="monai")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"pip install 'exptilt\[monai\]'"):
        MonaiNet(MonaiShape(net="UNet", channels=1, classes=2))


def test_arguments_that_are_set_are_not_given_twice():
    with pytest.raises(ValueError, match="in_channels follows from channels"):
        MonaiSettings(net="UNet", arguments={"in_channels": 1})
    with pytest.raises(ValueError, match="only one of them"):
        SegmenterConfig(path="x", monai=MonaiSettings(net="UNet"))
