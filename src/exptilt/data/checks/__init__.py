"""Checks on records, one by one and across all of them."""
