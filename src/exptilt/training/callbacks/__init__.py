"""Callbacks: small objects that are called around the steps of a run."""
