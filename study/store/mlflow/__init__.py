"""The study's view in MLflow; the only package that imports mlflow."""
