"""Training on completions that the policy draws itself: prompts are asked, answers rewarded and scored, and the loop takes its steps on them."""
