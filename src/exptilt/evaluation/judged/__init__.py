"""What verdicts say: win rates, length control, ratings, agreement."""
