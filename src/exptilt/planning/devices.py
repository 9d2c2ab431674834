"""Processors a plan knows: their memory and their speed of multiplication.

Peaks are dense (no sparsity), from the manufacturers' data sheets; the share of the peak that training reaches is an
assumption for every device we have not measured on, and says so.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import torch

from exptilt.errors import ConfigError
from exptilt.processes.memory import free_memory
from exptilt.wording import nearest

_SHARE = 0.40
"""Of the peak, for whole training steps: what well-made trainers report for models of 1 to 10 billion weights."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One processor."""

    name: str
    memory: float
    """Bytes."""
    bfloat16: float
    """Dense matrix products in bfloat16, FLOP/s at most."""
    float32: float
    """The same in float32 (not TF32), FLOP/s at most."""
    bandwidth: float
    """Bytes/s between memory and processor, at most."""
    share: float = _SHARE
    """Of the peak that a training step reaches."""
    note: str = f"{_SHARE:.0%} of the peak is an assumption, not measured"
    """Where `share` comes from."""

    def rate(self, dtype: torch.dtype) -> float:
        """FLOP/s that a training step reaches with products in this dtype."""
        return self.share * (self.float32 if dtype == torch.float32 else self.bfloat16)


def _gpu(name: str, memory: float, bfloat16: float, float32: float, bandwidth: float) -> Device:
    """From a data sheet: GB, TFLOP/s, TFLOP/s, TB/s."""
    return Device(
        name=name, memory=memory * 1e9, bfloat16=bfloat16 * 1e12, float32=float32 * 1e12, bandwidth=bandwidth * 1e12
    )


GPUS = {
    device.name: device
    for device in (
        _gpu("B200", 180, 2250, 75, 8.0),
        _gpu("H200", 141, 989, 67, 4.8),
        _gpu("H100-80GB", 80, 989, 67, 3.35),
        _gpu("H100-PCIe-80GB", 80, 756, 51, 2.0),
        _gpu("A100-80GB", 80, 312, 19.5, 2.04),
        _gpu("A100-40GB", 40, 312, 19.5, 1.56),
        _gpu("L40S-48GB", 48, 362, 91.6, 0.864),
        _gpu("L4-24GB", 24, 121, 30.3, 0.3),
        _gpu("A10-24GB", 24, 125, 31.2, 0.6),
        _gpu("RTX4090-24GB", 24, 165, 82.6, 1.01),
        _gpu("RTX3090-24GB", 24, 71, 35.6, 0.936),
        _gpu("MI300X", 192, 1307, 163, 5.3),
    )
}


@dataclass(frozen=True)
class Fleet:
    """Devices of one kind, a process on each."""

    count: int
    device: Device
    here: bool
    """Whether it is the machine this runs on, so that a probe can measure instead of a table being asked."""

    def __str__(self) -> str:
        return f"{self.count} x {self.device.name}"


def parse_fleet(text: str | None) -> Fleet:
    """Read "8xH100-80GB", "H200" or "cpu"; None is this machine.

    Raises:
        ConfigError: no such device, or none of them.

    Example:
        >>> str(parse_fleet("8xH100-80GB")), parse_fleet("2xa100-40gb").device.memory
        ('8 x H100-80GB', 40000000000.0)
    """
    if text is None:
        return this_machine()
    if text.strip().lower() == "cpu":
        return Fleet(1, _cpu(), here=True)
    match = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?([\w-]+?)\s*", text, re.IGNORECASE)
    count, name = (int(match[1] or 1), match[2]) if match else (0, text)
    known = {key.lower(): key for key in GPUS}
    found = known.get(name.lower()) or known.get(f"{name.lower()}-80gb")
    if found is None or count < 1:
        near = nearest(name, GPUS)
        meant = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(
            f"--gpus {text!r}: unknown device{meant} (known: {', '.join(GPUS)}, cpu; write it as 8xH100-80GB)"
        )
    return Fleet(count, GPUS[found], here=False)


def this_machine() -> Fleet:
    """The GPUs of this machine, or its processor."""
    if not torch.cuda.is_available():
        return Fleet(1, _cpu(), here=True)
    properties = torch.cuda.get_device_properties(0)
    sheet = _nearest(properties.name)
    memory = float(properties.total_memory)
    device = replace(sheet or GPUS["A100-80GB"], name=properties.name, memory=memory)
    if sheet is None:
        device = replace(device, note=f"{device.name} is not in the table: speed as an A100's, a guess")
    return Fleet(torch.cuda.device_count(), device, here=True)


def _nearest(name: str) -> Device | None:
    """The data sheet of a device by the name its driver gives: "NVIDIA H100 80GB HBM3"."""
    words = re.sub(r"[^a-z0-9]", "", name.lower())
    for key, device in GPUS.items():
        if key.lower().split("-")[0] in words:
            return device
    return None


def _cpu() -> Device:
    """This machine's processor; a rehearsal measures its speed, so its peaks are not used."""
    cores = torch.get_num_threads()
    return Device(
        name=f"CPU ({cores} of {os.cpu_count()} cores)",
        memory=float(free_memory(torch.device("cpu"))),
        bfloat16=0.0,
        float32=0.0,
        bandwidth=0.0,
        note="measured here, now, by a rehearsal of a few steps with random weights",
    )
