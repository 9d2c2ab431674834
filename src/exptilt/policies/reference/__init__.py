"""The reference: its log-probabilities, where they come from and where they are kept."""
