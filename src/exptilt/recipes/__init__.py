"""Composed runs: what the verbs of the command line do, callable from Python as well."""
