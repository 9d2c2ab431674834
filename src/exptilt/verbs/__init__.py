"""The verbs of the command line, one file each, callable from Python as well."""
