"""Votes of other tools, into a store and out of it: AlpacaEval, Arena-Hard, MT-Bench, Chatbot Arena."""
