"""Fills the generated pages of the documentation from the code: commands, experiments, claims, protocol, deviations."""

import re
from collections.abc import Callable
from typing import Any

import click
import yaml

from analysis import paper
from commands import ENTRY_POINTS
from experiments import EXPERIMENTS, name_of
from experiments.profiles import PROFILES
from experiments.recipes import DEVIATIONS

MARK = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with the text of every page."""
    return MARK.sub(lambda match: GENERATED[match[1]](), markdown)
