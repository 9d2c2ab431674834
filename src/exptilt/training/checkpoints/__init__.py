"""Checkpoints: folders that are complete or do not exist, and what a run keeps in them."""
