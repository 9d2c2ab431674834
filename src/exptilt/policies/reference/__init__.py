"""The reference: its log-probabilities, their sources and their storage."""
