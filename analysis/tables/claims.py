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


def untestable_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Why the profile cannot test the other claims, as text: reason, number of claims, claims."""
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if not verdict.testable:
            by_reason.setdefault(verdict.reason, []).append(verdict.claim.id)
    rows = [(reason, str(len(ids)), ", ".join(ids)) for reason, ids in by_reason.items()]
    return pd.DataFrame(rows, columns=["reason", "claims", "which"])
