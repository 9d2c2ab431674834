"""Runs: a recipe's models, rows, reference and loop, put together. The only room below the verbs that reads a whole recipe."""

from exptilt.processes.allocator import set_torch_defaults

set_torch_defaults()  # here, before the first module of this room imports torch
