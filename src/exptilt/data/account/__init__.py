"""The account of the data: what was read, what was kept, what was left out and why."""
