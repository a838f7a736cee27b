"""The folder of a run: manifests, checkpoints, metrics; each file is complete or absent."""
