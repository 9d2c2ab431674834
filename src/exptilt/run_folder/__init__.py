"""The run folder: every file of a run, written and read here."""
