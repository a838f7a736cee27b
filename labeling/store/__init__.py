"""The labeling database: tables, tasks, the queue, labels, and labels as training data."""
