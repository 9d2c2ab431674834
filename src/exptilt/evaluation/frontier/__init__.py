"""The reward-KL plane: its optimum, the policies on it, best-of-n, proxies of the reward."""
