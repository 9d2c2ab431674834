"""Models as providers of log-probabilities: packing, attention, scoring, loading, and the reference."""

from exptilt.processes.allocator import set_torch_defaults

set_torch_defaults()  # here, before the first module of this room imports torch
