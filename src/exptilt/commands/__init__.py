"""The commands of the command line: the words a person types, read and handed to a verb. Never imports torch."""
