"""Completions sampled from a policy, and the law they were drawn by.

law          the sampling law, a settings dataclass without torch; what may be combined with what
generate     `sample`, the loop that draws; `samples_as_groups` for scoring what was drawn
decode       one step of a causal language model with its cache
"""
