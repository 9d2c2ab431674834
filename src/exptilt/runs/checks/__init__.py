"""Checks before a run that need the model: whether the reference knows such text, and which pairs may displace."""
