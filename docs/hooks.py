"""Fills the generated pages of the documentation from the code: commands, experiments, claims, protocol, deviations."""

import inspect
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import click

from analysis import paper
from analysis.claims import MEASURED, SAME
from analysis.counted_claims import CLAIMS
from commands.app import app
from experiments import EXPERIMENTS, name_of, scale_of
from experiments.profiles import PROFILES, Profile
from experiments.recipes import DEVIATIONS

MARK = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with the text of every page."""
    return MARK.sub(lambda match: "\n".join(GENERATED[match[1]]()), markdown)


def commands() -> Iterator[str]:
    """Every command with its options, from click."""
    for package, group in app.commands.items():
        assert isinstance(group, click.Group)
        entry, outer = f"python -m {package}", click.Context(group)
        yield f"## {entry}\n"
        for name in sorted(group.list_commands(outer)):
            command = group.get_command(outer, name)
            assert command is not None
            context = click.Context(command, info_name=name)
            usage = " ".join(command.collect_usage_pieces(context))
            yield f"### {name}\n\n{inspect.cleandoc(command.help or '')}\n\n```\n{entry} {name} {usage}\n```\n"
            options = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
            yield from table(("option", "meaning"), ((f"`{option}`", text) for option, text in options))


def experiments() -> Iterator[str]:
    """The docstring of each experiment, what each profile is for, and how many trials each experiment has there."""
    for experiment in EXPERIMENTS:
        yield f"## {name_of(experiment)}\n\n{(experiment.__doc__ or '').strip()}\n"
    yield "## Profiles\n"
    yield from table(("profile", "summary"), ((profile.name, profile.summary) for profile in PROFILES))
    yield "## Trials by profile\n"
    yield "Experiments share trials. In brackets: only where the experiment is named.\n"
    yield from table(
        ("experiment", *(profile.name for profile in PROFILES)),
        ((name_of(experiment), *(trials(experiment, profile) for profile in PROFILES)) for experiment in EXPERIMENTS),
    )


def trials(experiment: ModuleType, profile: Profile) -> str:
    """How many trials the experiment has in the profile, as a cell."""
    scale = scale_of(experiment, profile)
    if not scale:
        return "-"
    number = len(set(experiment.trials(profile)))
    return f"({number})" if scale.on_request else str(number)


def claims() -> Iterator[str]:
    """The paper's claims, in its order, each with what is tested and why, as its function states it."""
    tests = {**MEASURED, **CLAIMS}
    rows = []
    for claim in paper.claims():
        same = SAME.get(claim.id)
        tested = f"As {same}." if same else " ".join((inspect.getdoc(tests[claim.id]) or "").split())
        rows.append((claim.id, claim.section, claim.statement, claim.kind, tested))
    yield from table(("claim", "section", "statement", "kind", "estimand, margin and why"), rows)


def protocol() -> Iterator[str]:
    """What the paper states, and how its ambiguities are resolved."""
    for part, rows in paper.protocol().items():
        yield f"## {part}\n"
        yield from table(("what", "value", "status", "section"), ([row[k] for k in COLUMNS] for row in rows))
    yield "## Ambiguities\n"
    for row in paper.ambiguities():
        yield f"### {row['question']}\n\nSec. {row['section']}. Evidence: {row['evidence']}\n\nHere: {row['ours']}.\n"


def deviations() -> Iterator[str]:
    """What no field of a trial shows."""
    yield from (f"- {deviation}" for deviation in DEVIATIONS)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """A Markdown table; a bar in a cell would end it."""
    names = list(head)
    yield "| " + " | ".join(names) + " |\n|" + "---|" * len(names)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


COLUMNS = ("what", "value", "status", "section")
GENERATED = {
    "commands": commands,
    "experiments": experiments,
    "claims": claims,
    "protocol": protocol,
    "deviations": deviations,
}
