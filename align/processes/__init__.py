"""Several processes that train together: sums, shards, launching, stopping."""
