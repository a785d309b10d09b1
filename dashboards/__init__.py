"""Looking: the MLflow UI over the study's store. Reads only."""
