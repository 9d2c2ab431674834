"""Measurements on pairs: accuracy, calibration, displacement, CHES, sections of a benchmark."""
