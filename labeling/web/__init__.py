"""What a browser or a machine sees of the labeling app: pages and the REST API."""
