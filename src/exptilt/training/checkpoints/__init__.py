"""Checkpoints: folders that are complete or do not exist, and the state of a run in them."""
