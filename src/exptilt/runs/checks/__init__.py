"""Checks before a run that need the model: does the reference know such text, which pairs may displace."""
