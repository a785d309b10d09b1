"""The verdicts as tables: those on claims that the profile tests, and why it cannot test the others."""

from collections.abc import Iterable

import pandas as pd

from analysis.questions import by_question
from analysis.tables.printing import DASH
from analysis.verdicts import Verdict


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """The claims that the profile tests, as text, by question: the effect first, what is concluded from it after it."""
    rows = [
        (
            "" if place else question,
            verdict.claim.id,
            verdict.statement,
            verdict.effect_text or DASH,
            verdict.text,
            str(verdict.n or DASH),
            verdict.plan or DASH,
        )
        for question, alike in by_question(verdicts).items()
        for place, verdict in enumerate(alike)
    ]
    return pd.DataFrame(
        rows, columns=["question", "claim", "statement", "effect [interval]", "verdict", "n", "analysis"]
    )


def answers(verdicts: Iterable[Verdict], *names: str) -> str:
    """What the study says of the claims of these ids, as a Markdown list: effect and interval first, then the verdict.

    The reason is with those that have no effect in points, and with those that the profile cannot test.
    """
    known = {verdict.claim.id: verdict for verdict in verdicts}
    lines = []
    for verdict in (known[name] for name in names if name in known):
        seeds = f"n = {verdict.n}" if verdict.n else ""
        said = [verdict.effect_text if verdict.testable else "", f"**{verdict.text}**", seeds, verdict.plan or ""]
        reason = f". {verdict.reason}" if verdict.effect is None else ""
        lines.append(f"- {verdict.statement} ({verdict.claim.id}): {', '.join(filter(None, said))}{reason}")
    return "\n".join(lines)


def untestable_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Why the profile cannot test the other claims, as text: reason, number of claims, claims."""
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if not verdict.testable:
            by_reason.setdefault(verdict.reason, []).append(verdict.claim.id)
    rows = [(reason, str(len(ids)), ", ".join(ids)) for reason, ids in by_reason.items()]
    return pd.DataFrame(rows, columns=["reason", "claims", "which"])
