"""The small study's command line with less patience: who is silent for seconds is taken for dead, so tests can wait."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny  # noqa: F401 (adds its profile)

from study.store import heartbeat

heartbeat.SILENCE_SECONDS = 8.0  # also in the process that runs Ray Tune: it begins by importing this file

if __name__ == "__main__":
    from commands.app import main

    main("experiments")
