"""`align check`: what is in the data, before anything trains."""
