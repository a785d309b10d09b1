"""The small study's command line with less patience: who is silent for seconds is taken for dead, so tests can wait."""

from study.store import heartbeat

heartbeat.SILENCE_SECONDS = 8.0  # also in the process that runs Ray Tune: it begins by importing this file

if __name__ == "__main__":
    from commands.app import main

    main("experiments")
