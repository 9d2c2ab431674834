"""Studies: grids of runs from one reference, measured on the reward-KL plane."""
