"""The profile of the long run (`soak.py`): trials of six updates."""

from dataclasses import replace

from experiments import learning_rate, profiles

SHORT = replace(
    profiles.SMOKE,
    name="short",
    width=1,
    imagenet=None,
    detectors=None,
    scales={learning_rate.NAME: profiles.Nets(nets=(("plain", 8),), seeds=1)},
)
