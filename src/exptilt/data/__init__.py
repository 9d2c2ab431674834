"""Rows in, checked and tokenised groups out, batches of groups."""
