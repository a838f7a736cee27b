"""Statistics of rankings and scores, with intervals, for all who count over labels. No torch."""
