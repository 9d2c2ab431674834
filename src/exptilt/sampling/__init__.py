"""Completions sampled from a policy, and the law they were drawn by.

law          the sampling law, a settings dataclass without torch; what may be combined with what
generate     `sample`, the loop that draws; `samples_as_groups` for scoring what was drawn
decode       one step of a causal language model with its cache
token_choice the token of a uniform number
draws        completions beside a reference, in columns

`exptilt sample` writes them to a folder:

sample_request    its settings
sample_rows       one completion as a row, and the folder that rows are appended to
drawn_folder      the folder filled
prompts_to_sample the prompts of a data source, each once
local_sampler     rows from a model in this process
server_sampler    rows from an OpenAI-compatible server
"""
