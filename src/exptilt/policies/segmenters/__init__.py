"""Segmenters: models that give every pixel of an image a distribution over classes, as scorers of masks."""
