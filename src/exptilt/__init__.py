"""exptilt: tilt a model toward what people prefer, and show how far it is from the best that could be reached."""

__version__ = "0.1.0"
