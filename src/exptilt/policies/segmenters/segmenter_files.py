"""Segmenters from folders and hub ids, and back into folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exptilt.disk import write_folder
from exptilt.errors import ModelError
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.unet import CONFIG, UNet, UNetConfig
from exptilt.settings.mask_settings import SegmenterConfig
from exptilt.wording import in_one_line

_BY_QUERY = ("mask2former", "maskformer", "oneformer", "eomt", "detr", "conditional_detr", "sam", "sam2", "sam_hq")
"""Model types whose output is a set of masks: no pixel has a distribution of its own."""


def load_segmenter(settings: SegmenterConfig, classes: int, seed: int = 0) -> Segmenter:
    """Load a segmenter, or make a small one.

    Args:
        settings: names it.
        classes: number of classes it must have.
        seed: of random weights.

    Raises:
        ModelError: it cannot be loaded, gives pixels no distribution, or has other classes.
    """
    if settings.config is not None:
        shape = settings.config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Segmenter(
                UNet(UNetConfig(channels=shape.channels, classes=classes, width=shape.width, levels=shape.levels))
            )
    path = Path(str(settings.path)).expanduser()
    if (path / "model" / CONFIG).is_file():  # a run folder
        path = path / "model"
    segmenter = Segmenter(UNet.load(path)) if (path / CONFIG).is_file() else _of_transformers(settings)
    own = classes_of(segmenter)
    if own is not None and own != classes:
        raise ModelError(f"segmenter.path: {settings.path}: has {own} classes, and data.classes has {classes}")
    return segmenter


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
    if isinstance(network, UNet):
        return network.config.classes
    labels = getattr(getattr(network, "config", None), "num_labels", None)
    return None if labels is None else max(2, int(labels))


def channels_of(segmenter: Segmenter) -> int:
    """Channels of the images that a segmenter takes."""
    network: Any = segmenter.network
    if isinstance(network, UNet):
        return network.config.channels
    config = getattr(network, "config", None)
    inner = getattr(config, "backbone_config", None) or config
    return int(getattr(inner, "num_channels", 3))


def save_segmenter(segmenter: Segmenter, folder: Path) -> None:
    """Write a folder that `load_segmenter`, and transformers for its models, loads again; whole, or not at all."""
    network: Any = segmenter.network
    save = network.save if isinstance(network, UNet) else network.save_pretrained
    write_folder(folder, save)


def _of_transformers(settings: SegmenterConfig) -> Segmenter:
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    try:
        config = AutoConfig.from_pretrained(str(settings.path), revision=settings.revision)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"segmenter.path: {settings.path}: cannot be loaded ({in_one_line(error)})") from None
    if config.model_type in _BY_QUERY:
        raise ModelError(
            f"segmenter.path: {settings.path}: a {config.model_type} predicts a set of masks, not a distribution for each pixel, "
            "so a mask has no log-probability; use SegFormer, UperNet, DPT, BEiT, DeepLab or a U-Net"
        )
    try:
        network = AutoModelForSemanticSegmentation.from_pretrained(str(settings.path), revision=settings.revision)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"segmenter.path: {settings.path}: is no semantic segmenter ({in_one_line(error)})") from None
    return Segmenter(network, logits_of)


def logits_of(output: Any) -> Tensor:
    """The logits in what a model of transformers returns.

    Raises:
        ModelError: there are none.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError("the model returns no logits for pixels")
    return logits
