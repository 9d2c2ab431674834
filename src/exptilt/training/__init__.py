"""The one training loop, and what joins a loss to a policy."""
