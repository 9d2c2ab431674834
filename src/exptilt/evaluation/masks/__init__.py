"""How good masks are: overlap, boundaries, calibration, and where likelihoods went."""
