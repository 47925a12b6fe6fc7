"""Where, when and how large flows run: Prefect's deployments, and what they stand on."""
