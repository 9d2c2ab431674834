"""The store of votes: what people and judges said of comparisons, and every paid call."""
