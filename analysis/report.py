"""The report of a study: everything under results/<profile>/, rendered from frames alone, and the terminal's summary.

Owns the files, the manifest and the lectures; the page is `analysis/page.py`. Must not know where runs are kept: no
tracking server, no torch.
Nothing here contains a date or a duration of rendering, so that the same frames give the same files again.
"""

import hashlib
import json
import os
import platform
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import nbformat
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from analysis import files, page, pictures, plan, referee, tables, verdicts
from analysis.files import DECISIONS, MANIFEST
from analysis.gaps import Problem, problems
from analysis.pictures import interactive, static
from analysis.qualified import judge
from analysis.questions import by_question
from analysis.runs import Frames, outcome_counts, thinned
from analysis.tables import printing, results
from analysis.verdicts import Verdict
from experiments.command import Command
from experiments.profiles import Profile
from experiments.recipes import Deviation
from study.limits import cores
from study.spec import PROTOCOL, SCHEMA, InputError
from study.store import atomic
from study.store.account import RESULTS, Outcome

PAGE, REFEREE = "index.html", "referee.html"
CLAIMS, VERDICTS = "claims.json", "verdicts.json"  # for scripts; with every field, for `read_verdicts`
NOTEBOOKS = Path(__file__).parent / "notebooks"
PACKAGES = ("numpy", "pandas", "scipy", "pyarrow", "matplotlib", "seaborn", "plotly")
FRAMES = ("runs", "curves", "layers", "evaluations")  # files of the frames a report is rendered from
ROWS = 2**18  # of a row group, more or less
_QUIET = ["--IPKernelApp.log_level=40"]  # errors only: the kernel warns of TCP, which here never leaves the machine


def write(
    frames: Frames,
    profile: Profile,
    folder: Path,
    provenance: Mapping[str, str] | None = None,
    others: Mapping[str, list[str]] | None = None,
    lecture: bool = True,
    command: Command | None = None,
) -> list[Verdict]:
    """Render everything into `folder` and return the verdicts, one for each claim of the paper.

    `provenance` (commit, versions, machine) goes into the manifest and onto the page as it is; `others` are ids of runs
    of other versions, to be named. `lecture=False` leaves out the executed notebooks, which take most of the time.
    `command` is what selects these trials.
    """
    judged, dated = judge(frames, profile), plan.read(profile.name)
    entries = [verdicts.entry(verdict, dated.sha256 if dated else None) for verdict in judged]
    files.write(folder / CLAIMS, json.dumps(entries, indent=1, allow_nan=False) + "\n")
    files.write(folder / VERDICTS, verdicts.to_json(judged))
    for name, frame in zip(FRAMES, (frames.finals, frames.curves, frames.layers, frames.evaluations), strict=True):
        with atomic.replacing(folder / f"{name}.parquet", durable=False) as path:
            _write_frame(frame, path)
    rendered = tables.every(frames)
    for table in rendered:
        printing.write(table, folder / "tables")
    made = {picture.name: picture for picture in pictures.made(frames, profile.name)}
    shown = {name: interactive.draw(made[name]) for name in pictures.CHARTS if name in made}
    printed = []
    for name in (name for name in (*pictures.FIGURES, *pictures.ON_REQUEST) if name in made):
        figure = static.draw(made[name])
        static.save(figure, folder / "figures", name)
        svg = "" if name in shown else static.inline(figure, name)
        printed.append(page.Printed(name, made[name].title, made[name].caption, svg))
    command = command or Command(profile=profile.name)
    facts, known = dict(provenance or {}), problems(frames.finals, profile, others or {}, command)
    content = page.Content(
        profile=profile,
        command=command.make(),
        finals=frames.finals,
        verdicts=judged,
        tables=rendered,
        charts=shown,
        pictures=printed,
        problems=known,
        facts=_versions() | facts,
        notebooks=[source.stem for source in _lectures()] if lecture else [],
    )
    files.write(folder / PAGE, page.render(content))
    asked = referee.rows(frames, judged, profile.name)
    files.write(folder / REFEREE, page.render_referee(profile.name, asked, judged, frames.finals))
    if lecture:
        notebooks(folder)
    files.write(folder / MANIFEST, _manifest(frames, profile, folder, facts, known, command))
    return judged


@dataclass(frozen=True)
class Standing:
    """What a report that is there shows and another one would not: results, by the ids of their trials."""

    command: str  # that made it
    lost: tuple[str, ...]  # of trials that the other one has, too, without their results
    unselected: tuple[str, ...]  # of trials that the other one does not have


def standing(folder: Path, finals: pd.DataFrame) -> Standing | None:
    """What the report in `folder` shows and one of these trials would not; None where no report can be read.

    A result that is unusable now is not lost: the new report says why.
    """
    manifest = files.read_manifest(folder)
    if manifest is None or not isinstance(command := manifest.get("command"), str):
        return None
    shown = manifest["results"]
    outcomes: dict[str, str] = dict(finals[["id", "outcome"]].itertuples(index=False))
    lost = tuple(id for id in shown if id in outcomes and outcomes[id] not in (*RESULTS, Outcome.UNUSABLE))
    return Standing(command, lost, tuple(id for id in shown if id not in outcomes))


def read_verdicts(folder: Path) -> list[Verdict]:
    """The verdicts of a report. Raises `InputError` where there is no report."""
    path = folder / VERDICTS
    if not path.exists():
        raise InputError(f"{folder} has no {VERDICTS}; render it: {_rendering(folder)}")
    return verdicts.from_json(path.read_text(encoding="utf-8"))


def read(folder: Path) -> Frames:
    """The frames a report was rendered from, long curves as finely as figures show them (`analysis.runs.thinned`).

    Raises `InputError` where there is no report.
    """
    for name in FRAMES:
        if not (folder / f"{name}.parquet").exists():
            raise InputError(f"{folder} has no {name}.parquet; render it: {_rendering(folder)}")
    runs, curves, layers, evaluations = (pq.ParquetFile(folder / f"{name}.parquet") for name in FRAMES)
    parts = [thinned(curves.read_row_group(part).to_pandas()) for part in range(curves.num_row_groups)]
    shown = pd.concat(parts, ignore_index=True) if parts else curves.read().to_pandas()
    finals = runs.read().to_pandas()
    finals["deviations"] = [tuple(Deviation(**deviation) for deviation in row) for row in finals["deviations"]]
    return Frames(finals, shown, layers.read().to_pandas(), evaluations.read().to_pandas())


def _rendering(folder: Path) -> str:
    return Command(profile=folder.name, results=str(folder.parent)).make("report")


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write every row. A row group ends where a trial does, so that curves can be thinned one group after another."""
    if "deviations" in frame:
        frame = frame.assign(deviations=frame["deviations"].map(lambda row: [asdict(deviation) for deviation in row]))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    trial = "ids" if "ids" in frame else "id"  # of an evaluation, which may be of several
    lengths, start = frame.groupby(trial, sort=False, observed=True).size(), 0
    with pq.ParquetWriter(path, table.schema) as writer:
        for _, trials in lengths.groupby(lengths.cumsum() // ROWS):
            rows = int(trials.sum())
            writer.write_table(table.slice(start, rows), row_group_size=rows)
            start += rows


def notebooks(folder: Path) -> list[Path]:
    """Execute every notebook on the results in `folder`, and write them there as pages that need no kernel.

    They find the results through the environment variable STUDY_RESULTS. A cell that fails raises: half a lecture is
    not written.
    """
    with _own_jupyter() as env, ThreadPoolExecutor(cores()) as kernels:
        env["STUDY_RESULTS"] = str(folder.resolve())
        written = list(kernels.map(lambda source: _executed(source, folder, env), _lectures()))
    if manifest := files.read_manifest(folder):
        files.write(folder / MANIFEST, json.dumps(manifest | {"files": _digests(folder)}, indent=1) + "\n")
    return written


def _lectures() -> list[Path]:
    return sorted(NOTEBOOKS.glob("*.ipynb"))


@contextmanager
def _own_jupyter() -> Iterator[dict[str, str]]:
    """The environment of kernels. A user's start-up files are for interactive work, and nothing is put into a home."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="study-kernel-") as own:
        places = {"IPYTHONDIR": own, "JUPYTER_RUNTIME_DIR": own}
        os.environ.update(places)  # this process, too, looks for kernels there
        try:
            yield {name: value for name, value in os.environ.items() if name not in ("PYTHONSTARTUP", "PYTHONWARNINGS")}
        finally:
            for name in places:
                os.environ.pop(name)
            os.environ.update({name: before[name] for name in places if name in before})


def _executed(source: Path, folder: Path, env: dict[str, str]) -> Path:
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, extra_arguments=_QUIET)
    client.resources = {"metadata": {"path": str(NOTEBOOKS.parents[1])}}
    client.execute(env=env)
    content, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)  # 'lab' loads scripts from afar
    text = page.TEMPLATES.get_template("lecture.html").render(name=source.stem.replace("_", " "), content=content)
    return files.write(folder / "notebooks" / f"{source.stem}.html", text)


def summary(
    judged: Sequence[Verdict],
    table_6: pd.DataFrame,
    folder: Path,
    paper_cost: str = "",
    ui: str = "make ui",
    known: Sequence[Problem] = (),
    counted: str = "",
) -> str:
    """What the end of a run prints, for a terminal of 80 columns or none.

    In this order: how many verdicts there are of each kind (`counted`, a sentence or two), the verdicts by question,
    each effect first, Table 6, what is wrong or missing (`known`), where the pictures are, how to open the
    MLflow UI (`ui`, a command), and what the paper profile would cost (`paper_cost`, a sentence or two).
    """
    lines = textwrap.wrap(f"Verdicts on the paper's {len(judged)} claims: {counted or verdicts.counted(judged)}", 78)
    for question, alike in by_question(judged).items():
        lines += ["", f"  {question}"]
        for verdict in alike:
            statement = textwrap.shorten(verdict.statement, 66, placeholder=" ...")
            said = [verdict.effect_text, verdict.kind, f"n = {verdict.n}" if verdict.n else "", verdict.plan or ""]
            lines.append(f"    {verdict.claim.id:7} {statement}")
            lines += textwrap.wrap(
                ", ".join(filter(None, said)), 78, initial_indent=" " * 12, subsequent_indent=" " * 12
            )
    lines += ["", "Table 6 (errors in percent, mean ± standard deviation over n seeds)", ""]
    shown = results.printed(table_6)
    columns = {"net": 12, "iterations": 10, "training error": 17, "test error": 14, "n": 2, "paper": 16}
    lines.append("  " + " ".join(f"{name:{width}}" for name, width in columns.items()).rstrip())
    for row in shown.to_dict("records"):
        lines.append("  " + " ".join(f"{row[name]:{width}}" for name, width in columns.items()).rstrip())
        lines += [f"    {row['note']}"] if row.get("note") else []
    for note in results.caveats(table_6):
        lines += textwrap.wrap(note, 78, initial_indent="  ", subsequent_indent="  ")
    lines += ["", "Problems and gaps", ""] if known else []
    for problem in known:
        lines += textwrap.wrap(str(problem), 78, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    lines += ["", f"Pictures  {folder / 'figures'}", f"Page      {folder / 'index.html'}", f"MLflow    {ui}"]
    if paper_cost:
        lines += textwrap.wrap(paper_cost, 70, initial_indent="PROFILE=paper  ", subsequent_indent=" " * 15)
    return "\n".join(lines) + "\n"


def _manifest(
    frames: Frames,
    profile: Profile,
    folder: Path,
    facts: Mapping[str, str],
    known: Sequence[Problem],
    command: Command,
) -> str:
    finals, dated = frames.finals, plan.read(profile.name)
    with_result = finals["outcome"].isin(RESULTS)
    manifest = {
        "profile": profile.name,
        "command": command.make(),
        "git_commit": facts.get("git_commit", "unknown"),
        "provenance": dict(facts),
        "versions": _versions(),
        "planned": len(finals),
        "outcomes": outcome_counts(finals),
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "runs": dict(finals.loc[finals["run_id"] != "", ["id", "run_id"]].itertuples(index=False)),
        "results": dict(finals.loc[with_result, ["id", "records_sha256"]].itertuples(index=False)),
        "plan": dated
        and {
            "file": plan.path_of(profile.name).name,
            "sha256": dated.sha256,
            "dated": dated.dated.isoformat(),
            "code_unchanged": dated.code_sha256 == plan.code_sha256(),
        },
        "problems": [asdict(problem) for problem in known],
        "evaluations": dict(
            finals.loc[finals["evaluations_sha256"] != "", ["id", "evaluations_sha256"]].itertuples(index=False)
        ),
        "without_a_result": finals.loc[~with_result, "id"].tolist(),
        "files": _digests(folder),
    }
    return json.dumps(manifest, indent=1) + "\n"


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the report, by its path in the folder; the manifest cannot hold its own."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".") and path.parent.name != DECISIONS
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
