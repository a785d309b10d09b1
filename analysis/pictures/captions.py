"""The words under a picture: what is drawn and what is not, and the runs, data and code that it rests on."""

import hashlib
from typing import Any

import pandas as pd

from analysis.runs import WITHOUT_RESULT
from study.spec import PROTOCOL, SCHEMA


def about(text: str, finals: pd.DataFrame, profile: str) -> dict[str, Any]:
    """The `caption` and `traced` of a picture of these trials."""
    traced = {name: sorted(set(finals[name]) - {""}) for name in ("run_id", "data_digest", "git_commit")}
    return {
        "caption": f"{text} {_account(finals, profile)}",
        "traced": {"profile": profile, "schema": SCHEMA, "protocol": PROTOCOL, **traced},
    }


def provisional(undone: pd.DataFrame) -> str:
    """A sentence that names the curves of trials without a result; '' where there are none."""
    nets = [
        f"{title} (seed{'s' if len(rows) > 1 else ''} {', '.join(map(str, sorted(rows['seed'])))})"
        for title, rows in undone.groupby("title", sort=False)
    ]
    return f" Faint and provisional, in no mean: the curves so far of {', '.join(nets)}." if nets else ""


def _account(finals: pd.DataFrame, profile: str) -> str:
    """Data, profile, seeds, runs, and every trial that is not a finished one."""
    if finals.empty:
        return f"Profile {profile}: no trial of these nets is planned."
    done = finals[finals["outcome"] == "finished"]
    seeds = sorted(set(done.groupby("condition").size()))
    n = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else f"{seeds[0] if seeds else 0}"
    account = (
        f"Data: {', '.join(sorted(set(finals['data'])))}; profile {profile};"
        f" n = {n} seed{'' if n == '1' else 's'} a net; {len(done)} of {len(finals)} planned trials finished."
    )
    planned = finals.groupby("title").size()
    for outcome in ("diverged", *WITHOUT_RESULT):
        nets = finals[finals["outcome"] == outcome].groupby("title", sort=False)
        if len(nets):
            counts = (f"{title} ({len(rows)} of {planned[title]}{_where(rows)})" for title, rows in nets)
            account += f" {outcome.capitalize()}: {', '.join(counts)}."
    if len(done):
        runs = hashlib.sha256(" ".join(sorted(set(finals["run_id"]) - {""})).encode()).hexdigest()[:7]
        data, code = (_short(finals[name]) for name in ("data_digest", "git_commit"))
        account += f" Runs {runs}, data {data}, code {code}, protocol {PROTOCOL}."
    return account


def _short(digests: pd.Series) -> str:
    return ", ".join(sorted({digest[:7] for digest in digests} - {""})) or "unknown"


def _where(rows: pd.DataFrame) -> str:
    at = sorted(set(rows["diverged_at"].dropna().astype(int)))
    return f", at iteration {', '.join(map(str, at))}" if at else ""
