"""The account of the data: rows that were read, kept and left out, with the reasons."""
