"""A finished run in use: export, scores, lineage."""
