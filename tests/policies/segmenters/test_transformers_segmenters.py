"""Semantic segmenters of transformers, each from a small config: log-probabilities are those of its own forward pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.labels import Preferred
from exptilt.losses import DPO
from exptilt.policies.segmenters.mask_scorer import CountedPixels, MaskScorer, MaskTable
from exptilt.policies.segmenters.segmenter_files import channels_of, load_segmenter, save_segmenter
from exptilt.settings.mask_settings import SegmenterConfig
from exptilt.training.objective import Objective

CLASSES = 3
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
    "num_labels": CLASSES,
}
BEIT = VISION | {"use_auxiliary_head": True, "auxiliary_channels": 8, "pool_scales": [1, 2]}
CONVNEXT = {
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def upernet():
    backbone = transformers.ConvNextConfig(**CONVNEXT)
    config = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=CLASSES, hidden_size=16, pool_scales=[1, 2], use_auxiliary_head=False
    )
    return transformers.UperNetForSemanticSegmentation(config)


def deeplab():
    """DeepLabV3+ on MobileNetV2, with batch normalisation and dropout."""
    config = transformers.MobileNetV2Config(num_labels=CLASSES, depth_multiplier=0.25, image_size=64)
    return transformers.MobileNetV2ForSemanticSegmentation(config)


def deeplab_mobilevit():
    config = transformers.MobileViTConfig(
        num_labels=CLASSES,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32],
        aspp_out_channels=16,
        image_size=64,
    )
    return transformers.MobileViTForSemanticSegmentation(config)


def dpt():
    shape = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    return transformers.DPTForSemanticSegmentation(transformers.DPTConfig(**VISION, **shape, is_hybrid=False))


def beit():
    return transformers.BeitForSemanticSegmentation(transformers.BeitConfig(**BEIT, out_indices=[1, 2, 3, 4]))


def data2vec():
    config = transformers.Data2VecVisionConfig(**BEIT, out_indices=[0, 1, 2, 3])
    return transformers.Data2VecVisionForSemanticSegmentation(config)


def segformer():
    config = transformers.SegformerConfig(
        num_labels=CLASSES,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    return transformers.SegformerForSemanticSegmentation(config)


MODELS = {make.__name__: make for make in (segformer, upernet, deeplab, deeplab_mobilevit, dpt, beit, data2vec)}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """A folder of transformers with one of the models, and the model."""
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_pretrained(folder)
    return folder, model


def row(seed, size=64):
    random = np.random.default_rng(seed)
    first = random.integers(0, CLASSES, size * size).astype(np.int32)
    other = np.where(random.random(size * size) < 0.2, 0, first).astype(np.int32)
    counted = random.random(size * size) < 0.9
    return Group(
        id=f"r:{seed}",
        prompt=random.integers(0, 256, (3, size, size), dtype=np.uint8),
        completions=(Completion(first, counted), Completion(other, counted)),
        label=Preferred(1.0),
    )


def by_its_own_forward(model, group):
    """Mean log-probability of each mask over counted pixels, in float64, from the model's logits and numpy's sums."""
    with torch.no_grad():
        logits = model(pixel_values=torch.from_numpy(group.prompt[None] / np.float32(255))).logits
    large = torch.nn.functional.interpolate(logits, size=group.prompt.shape[1:], mode="bilinear", align_corners=False)
    values = large[0].flatten(1).double().numpy()
    logps = values - np.log(np.exp(values).sum(0))
    return [
        np.mean([logps[label, at] for at, label in enumerate(mask.ids) if mask.counted[at]])
        for mask in group.completions
    ]


def test_log_probabilities_are_those_of_its_own_forward_pass(saved):
    folder, model = saved
    segmenter = load_segmenter(SegmenterConfig(path=str(folder)), CLASSES)
    assert channels_of(segmenter) == 3
    groups = [row(0), row(1)]
    with torch.no_grad():
        found = MaskScorer(segmenter, CountedPixels("all", "mean"))(groups).sum().tolist()
    assert found == pytest.approx([one for group in groups for one in by_its_own_forward(model, group)], abs=2e-5)


def test_it_trains_from_step_zero_and_transformers_loads_what_was_saved(saved, tmp_path):
    """Also with batch normalisation and dropout: at first policy and reference are equal, and no statistic moves."""
    folder, model = saved
    segmenter = load_segmenter(SegmenterConfig(path=str(folder)), CLASSES)
    groups, scorer = [row(2), row(3)], MaskScorer(segmenter)
    table = MaskTable.of(MaskScorer(copy.deepcopy(segmenter)), groups, source="start", at_once=1)
    segmenter.train()
    optimizer = torch.optim.SGD(segmenter.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        output = Objective(DPO(beta=1.0))(groups, scorer(groups), table(groups))
        output.loss.backward()
        losses.append(output.sums.means()["loss"])
        optimizer.step()
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses[1] < losses[0]
    save_segmenter(segmenter, tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    statistics = {name: value for name, value in model.state_dict().items() if "running" in name}
    for name, value in statistics.items():
        assert torch.equal(again.state_dict()[name], value)
    group = groups[0]
    with torch.no_grad():
        trained = MaskScorer(segmenter, CountedPixels("all", "mean"))([group]).sum().tolist()
    assert by_its_own_forward(again, group) == pytest.approx(trained, abs=2e-5)


def test_a_size_that_a_model_does_not_take_is_one_line(tmp_path):
    dpt().save_pretrained(tmp_path / "dpt")
    segmenter = load_segmenter(SegmenterConfig(path=str(tmp_path / "dpt")), CLASSES)
    with pytest.raises(ModelError, match=r"does not take images of 40 x 56 pixels.*crop or pad"):
        segmenter.log_probabilities(torch.zeros(1, 3, 40, 56))


def test_a_checkpoint_without_a_head_is_no_segmenter(tmp_path):
    """The parts that are missing would be random, and nobody would be told."""
    whole = segformer()
    whole.save_pretrained(tmp_path / "s")
    kept = {name: value for name, value in whole.state_dict().items() if "decode_head" not in name}
    whole.save_pretrained(tmp_path / "s", state_dict=kept)
    with pytest.raises(ModelError, match=r"its files lack .* weights"):
        load_segmenter(SegmenterConfig(path=str(tmp_path / "s")), CLASSES)


@pytest.mark.parametrize("name", ["Mask2Former", "MaskFormer", "OneFormer", "Eomt", "Detr", "Sam", "Sam2"])
def test_models_that_predict_sets_of_masks_are_refused_with_the_reason(name, tmp_path):
    config = getattr(transformers, f"{name}Config")()
    config.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=f"a {config.model_type} predicts a set of masks, not a distribution"):
        load_segmenter(SegmenterConfig(path=str(tmp_path / "m")), CLASSES)


def test_a_model_of_another_kind_is_refused(tmp_path):
    transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="is no semantic segmenter"):
        load_segmenter(SegmenterConfig(path=str(tmp_path / "text")), CLASSES)
