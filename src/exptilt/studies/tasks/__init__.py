"""Tasks of a study: prompts, a reference and a reward."""
