"""Rounds of sampling, labelling and training, each from the model that the round before trained.

run_rounds      all rounds of a recipe, in its folder
round_steps     the three steps of a round as a protocol, and their order
text_rounds     the steps for language models
round_labels    completions to rows: by a reward, a judge, or people
round_recipe    the recipe of one round
round_work      what rounds will do, and what would keep them from it, before they begin
"""
