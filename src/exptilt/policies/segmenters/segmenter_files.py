"""Segmenters from folders and hub ids, and back into folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exptilt.disk import write_folder
from exptilt.errors import ModelError
from exptilt.policies.segmenters.monai_nets import MONAI_CONFIG, MonaiNet, MonaiShape
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.unet import CONFIG, UNet, UNetConfig
from exptilt.settings.mask_settings import SegmenterConfig, UNetSettings
from exptilt.wording import counted, in_one_line

_FOLDERS: dict[str, type[UNet] | type[MonaiNet]] = {CONFIG: UNet, MONAI_CONFIG: MonaiNet}
"""Networks that are saved as a folder of ours, by the file that tells them."""


def load_segmenter(settings: SegmenterConfig, classes: int, seed: int = 0) -> Segmenter:
    """Load a segmenter, or make a small one.

    Args:
        settings: names it.
        classes: number of classes it must have.
        seed: of random weights.

    Raises:
        ModelError: it cannot be loaded, gives pixels no distribution, or has other classes.
    """
    if settings.path is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Segmenter(_made(settings, classes), logits_of)
    path = Path(settings.path).expanduser()
    if any((path / "model" / name).is_file() for name in _FOLDERS):  # a run folder
        path = path / "model"
    ours = next((kind for name, kind in _FOLDERS.items() if (path / name).is_file()), None)
    segmenter = _of_transformers(settings) if ours is None else Segmenter(ours.load(path), logits_of)
    own = classes_of(segmenter)
    if own is not None and own != classes:
        raise ModelError(f"segmenter.path: {settings.path}: has {own} classes, and data.classes has {classes}")
    return segmenter


def _made(settings: SegmenterConfig, classes: int) -> UNet | MonaiNet:
    """A network with random weights."""
    if settings.monai is not None:
        given = settings.monai
        return MonaiNet(
            MonaiShape(net=given.net, channels=given.channels, classes=classes, arguments=dict(given.arguments))
        )
    shape = settings.config or UNetSettings()
    return UNet(UNetConfig(channels=shape.channels, classes=classes, width=shape.width, levels=shape.levels))


def freeze_all_but_biases(segmenter: Segmenter, classes: int) -> None:
    """Leave only the bias of each class to be trained: that of the last layer.

    Raises:
        ModelError: the last layer has none.
    """
    biases = [
        bias for name, bias in segmenter.named_parameters() if name.endswith("bias") and bias.numel() in (1, classes)
    ]
    if not biases:
        raise ModelError("segmenter.trains=bias: the last layer of this segmenter has no bias for each class")
    segmenter.requires_grad_(False)
    biases[-1].requires_grad_(True)


def classes_of(segmenter: Segmenter) -> int | None:
    """Number of classes of a segmenter, one output counting as two; None where it does not say."""
    network: Any = segmenter.network
    if isinstance(network, UNet | MonaiNet):
        return network.config.classes
    labels = getattr(getattr(network, "config", None), "num_labels", None)
    return None if labels is None else max(2, int(labels))


def channels_of(segmenter: Segmenter) -> int:
    """Channels of the images that a segmenter takes."""
    network: Any = segmenter.network
    if isinstance(network, UNet | MonaiNet):
        return network.config.channels
    config = getattr(network, "config", None)
    inner = getattr(config, "backbone_config", None) or config
    return int(getattr(inner, "num_channels", 3))


def save_segmenter(segmenter: Segmenter, folder: Path) -> None:
    """Write a folder that `load_segmenter`, and transformers for its models, loads again; whole, or not at all."""
    network: Any = segmenter.network
    save = network.save if isinstance(network, UNet | MonaiNet) else network.save_pretrained
    write_folder(folder, save)


def _of_transformers(settings: SegmenterConfig) -> Segmenter:
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    try:
        config = AutoConfig.from_pretrained(str(settings.path), revision=settings.revision)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"segmenter.path: {settings.path}: cannot be loaded ({in_one_line(error)})") from None
    if _predicts_sets(config.model_type):
        raise ModelError(
            f"segmenter.path: {settings.path}: a {config.model_type} predicts a set of masks, not a distribution for each pixel, "
            "so a mask has no log-probability; use SegFormer, UperNet, DPT, BEiT, DeepLab or a U-Net"
        )
    try:
        network, loading = AutoModelForSemanticSegmentation.from_pretrained(
            str(settings.path), revision=settings.revision, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"segmenter.path: {settings.path}: is no semantic segmenter ({in_one_line(error)})") from None
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"segmenter.path: {settings.path}: its files lack {counted(len(missing), 'weight')} (first {missing[0]}), which would be "
            "random; take a checkpoint that was trained to segment"
        )
    return Segmenter(network, logits_of)


def _predicts_sets(model_type: str) -> bool:
    """Whether models of this type give masks by query (Mask2Former, OneFormer, EoMT, SAM), so that no pixel has a distribution."""
    from transformers.models.auto import modeling_auto as known

    semantic = known.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    by_query = (
        known.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
        known.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
        known.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
    )
    return model_type not in semantic and any(model_type in names for names in by_query)


def logits_of(output: Any) -> Tensor:
    """The logits in what a network returns: the output itself, or its `logits`.

    Raises:
        ModelError: there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError("the model returns no logits for pixels")
    return logits
