"""`python -m analysis preregister`: write down what the profile's analysis tests, before its data are made.

Owns the file's date and what of an earlier plan is kept. What is in a plan is `analysis/plan.py`.
"""

from datetime import UTC, datetime

import click

from analysis import plan
from analysis.claims import MEASURED, SAME
from experiments.profiles import PROFILES
from experiments.profiles import profile as profile_of
from study.spec import InputError, check_choice
from study.store import atomic


@click.command("preregister")
@click.option("--profile", required=True, help=f"{', '.join(p.name for p in PROFILES)}, or FILE.py:VARIABLE.")
@click.option("--known", help="What has been seen of this profile's data so far (default: as in the earlier plan).")
@click.option(
    "--exploratory",
    metavar="CLAIM=REASON",
    multiple=True,
    help="Why a claim ('*': all of them) is exploratory although it is in the plan (default: as in the earlier plan).",
)
@click.option("--replace", is_flag=True, help="Write over an earlier plan; git keeps it.")
def preregister_command(profile: str, known: str | None, exploratory: tuple[str, ...], replace: bool) -> None:
    """Write the analysis plan of a profile as the code has it now, dated now. Commit it before the first run."""
    path = plan.path_of(profile_of(profile).name)
    if path.exists() and not replace:
        raise InputError(f"{path} exists; a plan is written once, before the data. --replace writes another, dated now")
    earlier = plan.read(profile_of(profile).name)
    reasons = {} if exploratory or earlier is None else dict(earlier.exploratory)
    for one in exploratory:
        claim, separator, reason = one.partition("=")
        check_choice("claim", claim, [plan.EVERY, *MEASURED, *SAME])
        if not separator or not reason:
            raise InputError(f"--exploratory {one!r} has no reason; write CLAIM=REASON")
        reasons[claim] = reason
    now = datetime.now(UTC).replace(microsecond=0)
    if known is None:
        known = earlier.known if earlier else ""
    atomic.write(path, plan.text(profile_of(profile), now, known, reasons).encode())
    print(f"{path} is dated {now.isoformat()}; commit it before the first trial is run")
