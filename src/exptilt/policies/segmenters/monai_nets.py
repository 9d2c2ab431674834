"""Networks of MONAI as segmenters, by name; an optional extra."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exptilt.errors import ModelError
from exptilt.wording import in_one_line

MONAI_CONFIG, _WEIGHTS = "monai.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class MonaiShape:
    """Which network, and its arguments."""

    net: str
    channels: int
    classes: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Others than `spatial_dims`, `in_channels` and `out_channels`."""


class MonaiNet(nn.Module):
    """A network of `monai.networks.nets` in two dimensions, with the arguments it was made by, so that a folder holds it whole."""

    def __init__(self, config: MonaiShape) -> None:
        """Build the network with random weights.

        Raises:
            ModelError: MONAI is not installed, has no such network, or the network does not take the arguments.
        """
        super().__init__()
        self.config = config
        self.net = _built(config)

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns."""
        return self.net(images)

    def save(self, folder: Path) -> None:
        """Write config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MONAI_CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> MonaiNet:
        """Read what `save` wrote.

        Raises:
            ModelError: the folder holds something else, or MONAI is not installed.
        """
        try:
            model = cls(MonaiShape(**json.loads((folder / MONAI_CONFIG).read_text(encoding="utf-8"))))
            model.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder}: holds no network of MONAI that can be read: {in_one_line(error)}") from None
        return model


def _built(config: MonaiShape) -> nn.Module:
    try:
        from monai.networks import nets
    except ImportError as error:
        if error.name != "monai":
            raise ModelError(f"segmenter.monai: MONAI cannot be imported ({in_one_line(error)})") from None
        raise ModelError("segmenter.monai needs MONAI: pip install 'exptilt[monai]'") from None
    made = getattr(nets, config.net, None)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise ModelError(f"segmenter.monai.net: monai.networks.nets has no network {config.net!r}")
    try:
        network: nn.Module = made(
            spatial_dims=2, in_channels=config.channels, out_channels=config.classes, **config.arguments
        )
    except Exception as error:  # networks check their own arguments, each in its way
        raise ModelError(f"segmenter.monai: {config.net} cannot be built: {in_one_line(error)}") from None
    return network
