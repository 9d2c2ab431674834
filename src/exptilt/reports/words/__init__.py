"""Words of the report: conclusions, answers and warnings that follow from the numbers."""
