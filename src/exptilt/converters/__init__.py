"""Configurations of other tools as recipes: read, told apart, and every key of them accounted for."""
