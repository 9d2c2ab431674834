"""Runs: a recipe's models, rows, reference and loop, put together. The only room below the verbs that reads a whole recipe."""
