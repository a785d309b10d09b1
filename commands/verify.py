"""`python -m experiments verify FILE`: is a rendered file as it was written, and does it show what the store holds now?

Owns the comparison of a report's manifest with a file and with the store. Reads no curve and renders nothing.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from analysis.files import MANIFEST, read_manifest
from analysis.plan import FOLDER
from commands.options import JSON, PATH, STORAGE
from study.spec import PROTOCOL, SCHEMA, InputError
from study.store import atomic, provenance
from study.store.account import read_account
from study.store.layout import Store
from study.store.records import read_evaluations, table_digest

CURRENT, STALE, ALTERED = "current", "stale", "altered"


@click.command("verify")
@click.argument("path", metavar="FILE", type=PATH)
@STORAGE
@JSON
def verify_command(path: Path, storage: str, as_json: bool) -> int:
    """Say whether FILE, of a results folder, is current, stale or altered, and whether the analysis plan is older than
    the trials. Exit code 1 unless FILE is current.
    """
    manifest, folder = manifest_of(path)
    verdict, reasons = judged(path, folder, manifest, atomic.place(storage))
    plan = of_plan(manifest, atomic.place(storage))
    if as_json:
        print(json.dumps({"file": str(path), "verdict": verdict, "reasons": reasons, "plan": plan}, indent=2))
    else:
        print(f"{verdict}: {path}", *(f"  {reason}" for reason in [*reasons, plan]), sep="\n")
    return 0 if verdict == CURRENT else 1


def manifest_of(path: Path) -> tuple[dict[str, Any], Path]:
    """The manifest of the results folder that the file is in, and that folder. Raises `InputError` for no such file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; name a figure, table or page in a results folder")
    for folder in path.resolve().parents:
        if (folder / MANIFEST).exists():
            if manifest := read_manifest(folder):
                return manifest, folder
            raise InputError(f"{folder / MANIFEST} is not as a report writes it; render the report again")
    raise InputError(f"{path} is in no results folder (there is no {MANIFEST} above it); `make report` writes one")


def judged(path: Path, folder: Path, manifest: dict[str, Any], store: Path) -> tuple[str, list[str]]:
    """The verdict on one file, and what it rests on."""
    name = str(path.resolve().relative_to(folder))
    if name not in manifest["files"]:
        return ALTERED, [f"the report in {folder} did not write it"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["files"][name]:
        return ALTERED, [f"its SHA-256 is not the one in {folder / MANIFEST}"]
    shown, reasons = manifest["results"], []
    if (manifest["schema"], manifest["protocol"]) != (SCHEMA, PROTOCOL):
        rendered_with = f"schema {manifest['schema']}, protocol {manifest['protocol']}"
        reasons.append(f"it is of {rendered_with}; this code has schema {SCHEMA}, protocol {PROTOCOL}")
    now = {id: _seal(store, id) for id in [*shown, *manifest["without_a_result"]]}
    new = [id for id, seal in now.items() if seal and id not in shown]
    other = [id for id, seal in now.items() if seal and seal != shown.get(id, seal)]
    gone = [id for id in shown if not now[id]]
    evaluated = [id for id in now if _evaluations(store, id) != manifest.get("evaluations", {}).get(id, "")]
    changes = {
        "results that it does not show": new,
        "other results than it shows": other,
        "results that it shows and the store lacks": gone,
        "other evaluations than it shows": evaluated,
    }
    for what, ids in changes.items():
        if ids:
            reasons.append(f"{what}: {len(ids)} ({', '.join(ids[:4])}{' and others' if len(ids) > 4 else ''})")
    if reasons:
        return STALE, reasons
    facts, here = manifest["provenance"], provenance.tags()
    grounds = [f"{len(shown)} sealed results of {store} are the ones it shows"]
    if facts.get("git_commit") != here["git_commit"]:
        grounds.append(f"rendered by commit {facts.get('git_commit', 'unknown')}; this is {here['git_commit']}")
    return CURRENT, grounds


def of_plan(manifest: dict[str, Any], store: Path) -> str:
    """Whether the analysis plan that the report was rendered with is older than the first of its trials."""
    written = manifest.get("plan")
    if not written:
        return "no analysis plan: every verdict is exploratory"
    dated, file = datetime.fromisoformat(written["dated"]), FOLDER / written["file"]
    same = file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == written["sha256"]
    committed = provenance.committed(file) if same else None
    fixed = committed or dated
    how = f"committed on {committed.isoformat()}" if committed else f"by its own word of {dated.isoformat()}"
    began = {id: read_account(Store(store).trial(id).path).started for id in manifest["results"]}
    older = {id: started for id, started in began.items() if started and started / 1000 < fixed.timestamp()}
    name = f"analysis plan {written['file']} ({written['sha256'][:10]}, {how})"
    code = "" if written["code_unchanged"] else "; the code of the tests has changed since it was written"
    if older:
        first = min(older, key=lambda id: older[id])
        return f"{name} is younger than {len(older)} of {len(began)} trials, {first} the first{code}"
    return f"{name} is older than all {len(began)} trials{code}"


def _seal(store: Path, id: str) -> str:
    """Digest of the sealed curve of a trial; '' where it has no result."""
    account = read_account(Store(store).trial(id).path)
    return account.tags["records_sha256"] if account.has_result else ""


def _evaluations(store: Path, id: str) -> str:
    """Digest of a trial's evaluations; '' where there are none."""
    table = read_evaluations(Store(store).trial(id).path)
    return "" if table is None else table_digest(table)
