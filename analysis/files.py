"""How results reach the disk: complete or not at all; two names in a results folder, and the form of the manifest.

Knows nothing else of their content.
"""

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from study.spec import InputError
from study.store import atomic

MANIFEST = "manifest.json"  # its files with their SHA-256, and what they were made of
DECISIONS = "decisions"  # folder of the records of `run --until-decided`: beside the report, and no part of it
_FORM = {"files": dict, "results": dict, "without_a_result": list, "provenance": dict, "schema": int, "protocol": int}
_PLAN = {"file": str, "sha256": str, "dated": str, "code_unchanged": bool}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the report in `folder` was made of; None where there is none, or not as a report writes it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        plan = manifest.get("plan")
        typed = all(isinstance(manifest[name], kind) for name, kind in _FORM.items())
        texts = [*manifest["files"].values(), *manifest["results"].values(), *manifest["without_a_result"]]
        typed = typed and all(isinstance(text, str) for text in texts)
        if plan:
            typed = typed and all(isinstance(plan[name], kind) for name, kind in _PLAN.items())
            datetime.fromisoformat(plan["dated"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if typed and isinstance(manifest.get("evaluations", {}), dict) else None


def check_place(folder: Path) -> None:
    """Raise `InputError` for a folder that cannot be made or written, before what takes long. Leaves nothing there."""
    try:
        folder.exists()  # raises for a name that is too long
        there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"results {folder} cannot be written ({error.strerror}); choose another folder with --results"
        ) from None


def write(path: Path, content: str | bytes) -> Path:
    """Replace the file, so that a reader sees the old one or the new one. Results can be rendered again: not synced."""
    atomic.write(path, content.encode() if isinstance(content, str) else content, durable=False)
    return path
