"""The scoring engine: packed rows through a model's trunk and head, forward and backward."""
