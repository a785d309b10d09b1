"""Files that are downloaded once: mirrors, checks, and one download for all processes that need the file.

Does not know what is in a file. STUDY_DATA_MIRRORS (base URLs, separated by commas) are tried before the official
places; with STUDY_OFFLINE=1 nothing is downloaded.
"""

import http.client
import logging
import os
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from study.spec import InputError


def urls_of(file: str, official: Sequence[str]) -> list[str]:
    """URLs of a file: below the mirrors that the user names, then below the `official` base URLs."""
    named = [base.strip() for base in os.environ.get("STUDY_DATA_MIRRORS", "").split(",") if base.strip()]
    return [f"{base.rstrip('/')}/{file}" for base in (*named, *official)]


def download(
    target: Path, urls: Sequence[str], verified: Callable[[Path], object], refused: Callable[[str], InputError]
) -> Path:
    """Download from the first of `urls` that works. Others that need the file wait for the holder of its lock.

    `verified` raises `ValueError` for a file that is not the wanted one. Raises what `refused` makes of the problem.
    """
    # Not by pooch. Its hashes are of the whole file as downloaded; those known here are of a file's contents unpacked
    # (IDX) or the first digits only (torchvision's weights). It takes no file:// mirror, stores a .gz file unpacked if
    # the server declares it as encoded, and a killed download leaves a file with a random name.
    if os.environ.get("STUDY_OFFLINE", "0") not in ("", "0"):
        raise refused(f"; STUDY_OFFLINE forbids to download it; put it there from {', '.join(urls)}")
    part = target.with_name(f".part-{target.name}")  # only the holder of the lock writes it, over what a kill left
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists():
                return target
            for url in urls:
                logging.getLogger(__name__).info("downloading %s", url)
                try:
                    with urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as out:
                        shutil.copyfileobj(response, out)
                    verified(part)
                    part.replace(target)
                    return target
                except (OSError, ValueError, http.client.HTTPException) as error:
                    failures.append(f"{url}: {error}")
    except OSError as error:
        failures.append(f"{target.parent}: {error}")
    raise refused(
        f", and could not be downloaded ({'; '.join(failures)}); put it there by hand,"
        " or name a mirror in STUDY_DATA_MIRRORS"
    )
