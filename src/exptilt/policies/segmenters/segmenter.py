"""A segmenter for the loop: any network that gives every pixel its own distribution over classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, log_softmax

from exptilt.errors import ModelError
from exptilt.wording import in_one_line


class Segmenter(nn.Module):
    """A network with the way from its output to log-probabilities of every pixel.

    Normalisation layers and dropout are always in evaluation mode, also while it is trained: with batch statistics a mask's
    log-probability would depend on the other images of the batch, and policy and reference would differ before step 1.

    Example:
        >>> from exptilt.policies.segmenters.unet import UNet, UNetConfig
        >>> segmenter = Segmenter(UNet(UNetConfig(channels=1, classes=3, width=4, levels=2)))
        >>> segmenter.log_probabilities(torch.zeros(2, 1, 8, 8)).exp().sum(1).allclose(torch.ones(2, 8, 8))
        True
    """

    def __init__(self, network: nn.Module, logits_of: Callable[[Any], Tensor] = lambda output: output) -> None:
        """Wrap a network.

        Args:
            network: called with (B, C, H, W) images.
            logits_of: takes (B, classes, h, w) logits, or (B, 1, h, w) of the foreground, from what it returns.
        """
        super().__init__()
        self.network = network
        self._logits_of = logits_of
        self.train(False)

    def train(self, mode: bool = True) -> Segmenter:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.network.parameters()).device

    def log_probabilities(self, images: Tensor) -> Tensor:
        """(B, classes, H, W) nats of each class at each pixel, in float32.

        Logits are brought to the size of the image before the softmax: an average of log-probabilities is no distribution.

        Raises:
            ModelError: the output has no class for each pixel, or the network takes no images of this size.
        """
        logits = self._logits_of(self._output(images)).float()
        if logits.ndim != 4:
            raise ModelError(f"a segmenter gives logits (B, classes, h, w), this model gives {tuple(logits.shape)}")
        if logits.shape[-2:] != images.shape[-2:]:
            logits = interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        if logits.shape[1] == 1:  # the foreground's alone
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return log_softmax(logits, 1)

    def _output(self, images: Tensor) -> Any:
        try:
            return self.network(images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            height, width = images.shape[-2:]
            raise ModelError(
                f"the segmenter does not take images of {height} x {width} pixels: {in_one_line(error)}; crop or pad them"
            ) from error

    def fingerprint(self) -> str:
        """64 hexadecimal digits of all weights and running statistics."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
