"""Models as providers of log-probabilities: packing, attention, scoring, loading, and the reference."""
