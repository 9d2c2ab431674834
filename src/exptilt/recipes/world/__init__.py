"""The demo's world: short film reviews from a grammar of our own, and a reward that is a known function of the text."""

from exptilt.recipes.world.reviews import World, label_pairs
from exptilt.recipes.world.sentiment import reward, valence_sum

__all__ = ["World", "label_pairs", "reward", "valence_sum"]
