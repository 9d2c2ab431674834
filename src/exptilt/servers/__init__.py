"""OpenAI-compatible servers, for judges and for samplers: one client, one rule for keys and for what leaves this machine."""
