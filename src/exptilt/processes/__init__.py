"""Processes: those that share a run, their signals and their memory."""
