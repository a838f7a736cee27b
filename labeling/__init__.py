"""The labeling app: people write demonstrations and rank responses; its database is training data."""
