"""The study's view in MLflow; the only package that imports mlflow.

`client` opens the store's MLflow and knows where artifacts are, `mirror` writes runs, `reader` reads them, `decoration`
is what a person sees beside the numbers. Importing this package, or `tags`, does not import mlflow.
"""

import logging
import os
from urllib.request import getproxies_environment

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # what waits is not lost, so a long wait has no use
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def configure() -> None:
    """Settings that mlflow reads from the environment when it is imported, for this process and those it starts.

    For entry points, before anything imports mlflow. What the user has set stays. The log levels are for errors that
    the study reports itself, once.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if getproxies_environment():  # one that the user set is for other machines
        without = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").replace(" ", "").split(",")
        if without != ["*"]:
            without = [host for host in dict.fromkeys([*without, *LOOPBACK]) if host]
        os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(without))
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
