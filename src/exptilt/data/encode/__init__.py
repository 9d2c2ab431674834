"""Encoding: records as rendered text, and text as token ids that fit into the context."""
