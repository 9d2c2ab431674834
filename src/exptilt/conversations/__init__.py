"""Conversations with models: in the terminal, and as what the arena asks about.

chat_request    what `exptilt chat` is asked for
conversation    turns, what is kept of them, and the system prompt
model_process   starts the process that holds the models, and streams its answers; never imports torch
model_server    that process: an OpenAI-compatible server on loopback
chat_terminal   a conversation in a terminal
"""
