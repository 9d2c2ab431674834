"""Settings: every key of a recipe, how a recipe is read, and what is said of a mistake in it. Never imports torch."""
