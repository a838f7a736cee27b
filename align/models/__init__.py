"""One base in memory, several roles on it as adapters, and one way to go through a batch."""
