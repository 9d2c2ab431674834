"""Training on completions that the policy draws itself: prompts are asked, answers rewarded and scored, rows made of them."""
