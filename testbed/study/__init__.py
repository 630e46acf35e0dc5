"""Studies: many runs from one plan, their results in one file, and what these results say."""
