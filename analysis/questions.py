"""Verdicts by the questions that the paper asks, and one sentence that counts them for what they are worth.

Owns the questions in words, their order, which question a claim belongs to, and which supported claims rest on the same
nets. Must not know how a verdict is reached, nor how a page, a table or a terminal shows it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from analysis import claims
from analysis.verdicts import Kind, Planned, Verdict, counted, ranked

COUNTED = "counted"
# A family of claims each (`analysis.claims.FAMILIES`), in the order of the paper's sections; what needs no run is last.
QUESTIONS = {
    "degradation": "Do deeper plain nets train worse?",
    "ImageNet: degradation": "Do deeper plain nets train worse on ImageNet, too?",
    "ImageNet: residual nets": "Do residual nets gain from depth on ImageNet?",
    "ImageNet: shortcuts": "Does it matter what a shortcut is?",
    "ImageNet: depth": "Do residual nets gain up to 152 layers?",
    "residual nets": "Do residual nets train better, and better with depth?",
    "layers": "Do signals or gradients vanish, and are residual functions small?",
    "1202 layers": "Does a net of 1202 layers train?",
    "explanations": "Are the paper's explanations right?",
    "detection": "Do deeper nets detect objects better?",
    "localisation": "Do deeper nets localise objects better?",
    COUNTED: "What is counted, without any run?",
}
_FAMILY = {name: family for family, members in claims.FAMILIES.items() for name in members}
SUPPORTED = (Kind.SUPPORTED, Kind.WITHIN_BUDGET)


class Contrast(NamedTuple):
    """Nets by title, and the claims that are supported by comparing these nets and no others."""

    nets: tuple[str, ...]
    claims: tuple[str, ...]
    others: tuple[str, ...]  # supported claims that compare these nets and more


def family_of(claim: str) -> str:
    """The key in `QUESTIONS` of a claim's id."""
    return _FAMILY.get(claims.SAME.get(claim, claim), COUNTED)


def by_question(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """The testable claims' verdicts by question in words, `ranked` within each; a question without any is left out."""
    testable = ranked(verdicts)
    grouped = {
        question: [verdict for verdict in testable if family_of(verdict.claim.id) == family]
        for family, question in QUESTIONS.items()
    }
    return {question: found for question, found in grouped.items() if found}


def in_one_sentence(verdicts: Sequence[Verdict], finals: pd.DataFrame) -> str:
    """How many of each kind; then what the supported ones share, how many are by proxy, and how many were planned.

    `finals` say which nets the runs are of (columns run_id, condition, title).
    """
    sentence = f"{counted(verdicts)}."
    supported = sum(verdict.kind in SUPPORTED for verdict in verdicts)
    shared = largest_contrast(verdicts, finals)
    if shared and len(shared.claims) > 1:
        entering = f", which enters into {len(shared.others)} more" if shared.others else ""
        nets = " against ".join(shared.nets) if len(shared.nets) == 2 else f"of {', '.join(shared.nets)}"
        sentence += f" {len(shared.claims)} of the {supported} supported ones rest on one contrast, {nets}{entering}."
    ran = [verdict for verdict in verdicts if verdict.testable and verdict.runs]
    if ran:
        proxies, planned = sum(one.proxy for one in ran), sum(one.plan is Planned.CONFIRMATORY for one in ran)
        sentence += f" Of {len(ran)} that rest on runs, {proxies or 'none'} {_be(proxies)} by proxy"
        sentence += f" and {planned or 'none'} {_be(planned)} confirmatory."
    return sentence


def largest_contrast(verdicts: Iterable[Verdict], finals: pd.DataFrame) -> Contrast | None:
    """The set of conditions that most supported claims compare; the first of several, None where there is none."""
    conditions = dict(zip(finals["run_id"], finals["condition"], strict=True))
    used = {
        verdict.claim.id: frozenset(conditions[run] for run in verdict.runs if run in conditions)
        for verdict in verdicts
        if verdict.kind in SUPPORTED
    }
    sets = [nets for nets in used.values() if nets]
    if not sets:
        return None
    most = max(dict.fromkeys(sets), key=sets.count)
    rows = finals[finals["condition"].isin(most)].drop_duplicates("condition")
    same, more = (tuple(name for name, nets in used.items() if holds(nets)) for holds in (most.__eq__, most.__lt__))
    return Contrast(tuple(rows.sort_values("depth", ascending=False)["title"]), same, more)


def _be(count: int) -> str:
    return "is" if count < 2 else "are"
