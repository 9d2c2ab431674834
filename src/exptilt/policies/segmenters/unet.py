"""A small U-Net with group normalisation, from a config; saved as one folder that loads again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from exptilt.errors import ModelError

CONFIG, WEIGHTS = "unet.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The shape of a U-Net."""

    channels: int = 3
    """Channels of an image: 1 for grey, 3 for colours."""
    classes: int = 2
    """Classes of a pixel, the background among them."""
    width: int = 8
    """Features of the first level; each level below has twice as many."""
    levels: int = 3
    """Resolutions, each half of the one above."""


class UNet(nn.Module):
    """Logits of every pixel: (B, channels, H, W) images -> (B, classes, H, W).

    Sides need not be divisible: what a level rounds away is interpolated back.

    Example:
        >>> UNet(UNetConfig(channels=1, classes=2, width=4, levels=2))(torch.zeros(3, 1, 9, 6)).shape
        torch.Size([3, 2, 9, 6])
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(config.levels)]
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise([config.channels, *widths]))
        self.up = nn.ModuleList(_block(low + high, high) for high, low in reversed(list(pairwise(widths))))
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B, classes, H, W) logits."""
        skipped: list[Tensor] = []
        features = images
        for block in self.down:
            features = block(nn.functional.max_pool2d(features, 2, ceil_mode=True) if skipped else features)
            skipped.append(features)
        for block, skip in zip(self.up, reversed(skipped[:-1]), strict=True):
            wider = interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            features = block(torch.cat([wider, skip], 1))
        logits: Tensor = self.head(features)
        return logits

    def save(self, folder: Path) -> None:
        """Write config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> UNet:
        """Read what `save` wrote.

        Raises:
            ModelError: the folder holds something else.
        """
        try:
            model = cls(UNetConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8"))))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder}: holds no U-Net that can be read: {error}") from None
        return model


def _block(inside: int, outside: int) -> nn.Sequential:
    """Two convolutions, each with group normalisation, which has no running statistics, and a rectifier."""
    layers: list[nn.Module] = []
    for width in (inside, outside):
        layers += [nn.Conv2d(width, outside, 3, padding=1), nn.GroupNorm(_groups(outside), outside), nn.ReLU()]
    return nn.Sequential(*layers)


def _groups(width: int) -> int:
    return next(count for count in (8, 4, 2, 1) if width % count == 0)
