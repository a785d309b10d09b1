"""The verdicts as tables: those on claims that the profile tests, and why it cannot test the others."""

from collections.abc import Iterable

import pandas as pd

from analysis.tables.printing import DASH
from analysis.verdicts import Verdict, ranked


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """The claims that the profile tests, as text: verdict, claim, statement, effect [interval], n."""
    rows = [
        (verdict.text, verdict.claim.id, verdict.statement, verdict.effect_text or DASH, str(verdict.n or DASH))
        for verdict in ranked(verdicts)
    ]
    return pd.DataFrame(rows, columns=["verdict", "claim", "statement", "effect [interval]", "n"])


def untestable_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Why the profile cannot test the other claims, as text: reason, number of claims, claims."""
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if not verdict.testable:
            by_reason.setdefault(verdict.reason, []).append(verdict.claim.id)
    rows = [(reason, str(len(ids)), ", ".join(ids)) for reason, ids in by_reason.items()]
    return pd.DataFrame(rows, columns=["reason", "claims", "which"])
