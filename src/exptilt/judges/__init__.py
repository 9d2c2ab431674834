"""Judges: servers, local models, rewards, people and yardsticks give verdicts on comparisons."""
