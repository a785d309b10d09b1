"""Which results in a store this code cannot use, because their ids were made under another schema or protocol.

Knows folders and specifications; knows neither accounts nor results.
"""

from collections import Counter
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study.spec import THIS_VERSION, Version, version_of
from study.store import atomic
from study.store.layout import SPEC, Store, TrialFolder

READERS = 16  # threads that read specifications: those of an object store take their time


def version(folder: Path) -> Version | None:
    """Of the id that a trial's folder is named by; None without a readable specification that this id belongs to."""
    content = atomic.read(TrialFolder(folder).spec)
    try:
        spec = atomic.decoded(content or b"null")
    except ValueError:
        return None
    return version_of(folder.name, spec) if isinstance(spec, dict) else None


def others(storage: Path, known: Container[str] = ()) -> dict[Version, int]:
    """How many trials of the store have ids of another version than this code's, by version, oldest first.

    Trials of `known` ids, which this code made, are not read.
    """
    folders = [path.parent for path in Store(storage).trials.glob(f"*/{SPEC}") if path.parent.name not in known]
    with ThreadPoolExecutor(READERS) as readers:
        counts = Counter(one for one in readers.map(version, folders) if one not in (None, THIS_VERSION))
    return {one: counts[one] for one in sorted(filter(None, counts))}
