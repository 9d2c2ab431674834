"""The demo's world: short film reviews from a grammar of our own, and a reward that is a known function of the text."""

from exptilt.testbed.reviews.film_reviews import FilmReviews, label_pairs
from exptilt.testbed.reviews.sentiment import reward, valence_sum

__all__ = ["FilmReviews", "label_pairs", "reward", "valence_sum"]
