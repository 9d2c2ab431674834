"""Runs: models, rows, reference and loop of a recipe. Below the verbs, only this room reads a whole recipe."""

from exptilt.processes.allocator import set_torch_defaults

set_torch_defaults()  # here, before the first module of this room imports torch
