"""Reading: files, folders and hub data sets as rows, and rows as records."""
