"""Rewards: numbers that say how good completions are; the protocol is `exptilt.preferences.Reward`."""
