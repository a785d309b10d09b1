"""Which trials an experiment's tables and pictures are about, and the columns that they read.

Pure selections of rows of the finals (`analysis.runs`). Must not know what is shown of them.
"""

import pandas as pd

from experiments import plain_vs_residual, shortcut_options

TRAINING = "final_train_error_pct"
TEST = "test_error_pct"


def serving(finals: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """The rows of the trials that serve an experiment."""
    serves = finals["experiments"].map(lambda names: experiment in names.split(",")).astype(bool)
    return finals[serves]  # of no rows, too, all columns


def beside_plain(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of shortcut-options and, for comparison, of the plain nets of the same depths."""
    options = serving(finals, shortcut_options.NAME)
    plain = serving(finals, plain_vs_residual.NAME).query("family == 'plain'")
    return pd.concat([plain[plain["depth"].isin(set(options["depth"]))], options])
