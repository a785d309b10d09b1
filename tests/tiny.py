"""The real command line with one more profile, whose two trials take seconds: what the fault tests run and kill."""

from dataclasses import replace

from experiments import learning_rate, profiles

TINY = replace(
    profiles.QUICK,
    name="tiny",
    scales={learning_rate.NAME: profiles.Nets(nets=(("plain", 32), ("residual", 20)), seeds=1)},
)
PROFILE = f"{__file__}:TINY"  # as --profile takes it

if __name__ == "__main__":
    from commands.app import main

    main("experiments")
