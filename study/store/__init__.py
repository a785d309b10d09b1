"""What is on disk, and its view in MLflow."""
