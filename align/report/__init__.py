"""`align report`: the page of a run, from its files. Without torch."""
