"""The training loop, and the objective that joins a loss to a policy."""
