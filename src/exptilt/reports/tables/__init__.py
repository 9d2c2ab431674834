"""Tables of the report: measured numbers as rows of text."""
