"""Files of a study of masks beside frontier.json: what was measured once, and must not be measured again."""

from __future__ import annotations

from exptilt.run_folder.record import FileRecord


class MaskPolicyMeasured(FileRecord):
    """points/NAME.json: one segmenter on X images, exactly."""

    measured_with: str | None = None
    """Digest of everything the numbers depend on."""
    kl: tuple[float, ...]
    """(X,) KL(policy || reference), nats a mask: the sum of the pixels'."""
    reward: tuple[float, ...]
    """(X,) expected reward."""
    kl_per_pixel: tuple[float, ...]
    """(X,)."""
    steps: int | None = None
    """Of its training."""


class MaskOptimumSolved(FileRecord):
    """optimum.json: the best policy of independent pixels on X images at B betas."""

    measured_with: str | None = None
    betas: tuple[float, ...]
    """(B,) falling."""
    kl: tuple[tuple[float, ...], ...]
    """(X, B + 2) of the reference, at each beta, of the true mask alone; nats a mask."""
    reward: tuple[tuple[float, ...], ...]
    """(X, B + 2)."""
