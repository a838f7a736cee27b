"""One set of rankings, every method at the same compute: what `align compare` does."""
