"""Rewards: numbers that say how good a completion is."""
