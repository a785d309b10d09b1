"""The kinds of input, each a strategy of Hypothesis for `judge.Case`.

What people, machines and files bring: nearly right, damaged, huge, empty, of another program, or hostile. Command lines
are made from the commands' own options, so that a new option is fuzzed without a word here. Owns no judgement.
"""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite
from judge import Case, alter_database
from PIL import Image
from templates import BUNDLE, STORE, TINY

from commands.app import app
from experiments import EXPERIMENTS, name_of
from experiments.profiles import DIGITS, PROFILES
from study.data import arrays, sources
from study.spec import VOC_CLASSES, Data
from study.store.records import parquet, table_digest

Cases = SearchStrategy[Case]
VALUES = json.loads((Path(__file__).parent / "values.json").read_text())  # what is typed, named and set

# ---------------------------------------------------------------- values

ODD_WORDS = (*VALUES["words"], "a" * 300, "1" * 5000)
NUMBERS = (
    *(-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 5, 8, 64, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63),
    10**30,
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, 3.4e38, float("inf"), float("-inf"), float("nan"))
text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
odd = st.sampled_from(ODD_WORDS) | text
whole = st.sampled_from(NUMBERS) | st.integers(-3, 70)
numbers = st.one_of(st.sampled_from(FLOATS), whole, st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, odd)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd, inner, max_size=3), max_leaves=6
)


def typed(line: str) -> tuple[str, ...]:
    """The words of a command line without quotes."""
    return tuple(line.split())


def of(*values: Any) -> SearchStrategy[Any]:
    return st.sampled_from(values)


def mostly(usual: SearchStrategy[Any], other: SearchStrategy[Any], share: int = 4) -> SearchStrategy[Any]:
    """Of so many values one is of the other strategy."""
    return st.integers(1, share).flatmap(lambda draw: other if draw == 1 else usual)


TEMPLATES = mostly(of("folders"), of("study"), 20)  # what MLflow is asked for takes a second


# ---------------------------------------------------------------- damage

OTHER_FILES = (
    *(
        b"",
        b"\0",
        b"\0" * 512,
        b"\xff" * 100,
        b"{}",
        b"[]",
        b"null",
        b"0",
        b'""',
        b"NaN",
        b"true",
        b"\xef\xbb\xbf{}",
        b"[" * 5000,
    ),
    b"<!DOCTYPE html><html><title>404</title></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    *(
        b"PK\x05\x06" + b"\0" * 18,
        b"PK\x03\x04",
        b"PAR1",
        b"PAR1PAR1",
        b"SQLite format 3\0",
        b"\x1f\x8b\x08",
        b"\x80\x04.",
        b"GIF89a",
    ),
    pickle.dumps({"a": [1, 2]}),
)


@composite
def damaged(draw: DrawFn, content: bytes) -> bytes:
    """The bytes with something cut, changed, added, twice, or a file of another kind in their place."""
    end = len(content)
    at = draw(st.integers(0, end))
    length = draw(of(1, 2, 4, 8, 64, 1000))
    match draw(st.integers(0, 6)):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + length :]
        case 2:
            return content[:at] + content[at + length :]
        case 3:
            return content[:at] + content[max(0, at - length) : at] + content[at:]
        case 4:
            byte = bytes([content[at % end] ^ (1 << draw(st.integers(0, 7)))]) if end else b""
            return content[: at % end] + byte + content[at % end + 1 :] if end else b"x"
        case 5:
            return content[:at] + draw(of(b"\0", b"\xff")) * length + content[at + length :]
    return draw(of(*OTHER_FILES))


@composite
def altered(draw: DrawFn, value: Any, changes: int = 2) -> Any:
    """A JSON value with some parts replaced, removed or added anywhere in it."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, changes))):
        places = list(_places(value))
        holder, key = draw(st.sampled_from(places)) if places else (None, None)
        if holder is None:
            return draw(anything)
        match draw(st.integers(0, 5)):
            case 0:
                del holder[key]
            case 1:
                if isinstance(holder, dict):
                    holder[draw(odd)] = draw(scalars)
                else:
                    holder.append(draw(anything))
            case 2:
                holder[key] = draw(numbers)
            case 3:
                holder[key] = draw(odd)
            case _:
                holder[key] = draw(anything)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def in_json(value: Any) -> SearchStrategy[bytes]:
    """A JSON file of the value, altered, or its bytes damaged."""
    content = json.dumps(value).encode()
    as_json = altered(value).map(lambda other: json.dumps(other).encode("utf-8", "surrogatepass"))
    return as_json | as_json | damaged(content)


# ---------------------------------------------------------------- command lines

PROFILE_NAMES = tuple(profile.name for profile in PROFILES)
NAMES = tuple(map(name_of, EXPERIMENTS))
DATA = VALUES["data"]
PATHS = VALUES["paths"]
ADDRESSES = VALUES["addresses"]
USUAL: Mapping[str, SearchStrategy[str]] = {
    "profile": of(
        TINY, TINY, TINY, *PROFILE_NAMES, "tiny.py:MISSING", "missing.py:X", "bad.py:X", "store:X", ".py:", "x.py:"
    ),
    "name": of(*PROFILE_NAMES, TINY),
    "experiments": st.lists(of("learning-rate", *NAMES), max_size=3).map(" ".join),
    "data": of(*DATA),
    "device": of("cpu", "auto", "cuda", "cuda:0", "mps"),
    "cohort": of("auto", "1", "2"),
    "protocols": of("centre crop", "10-crop", "multi-scale", "+box refinement"),
    "ids": of("plain20-digits-ceef4efea1-s0", "resnet20A-digits-0ebc1a4edc-s0", "x"),
    "chosen": of("none", "all", "plain20-digits-ceef4efea1-s0"),
    "until_decided": of("S41-1", "S42-4", "S42-8", "X"),
    "model": of("resnet18", "resnet50", "resnet20"),
    "stride": of("3x3", "first"),
    "key": of("state_dict", "model", "x"),
    "shortcut": of("A", "A-centred", "A-average", "none"),
    "normalise": of("imagenet", "cifar10", "none", "pixel-mean", "0.5,0.5,0.5/1,1,1", "0/0", "1,2/3", "nan,0,0/1,1,1"),
    "budget": of("0", "0h", "1h", "0kWh", "5kWh", "1e9", "12H", "h"),
    "tracking_uri": of(*ADDRESSES),
    "address": of("auto", "local", "localhost:1", "ray://localhost:1"),
    "storage": of("store", "store", "store", *PATHS),
    "source": of("photographs", "images:x", "imagenet", "folder:x"),
    "profile_trace": of("longest", "x"),
}


def _value(parameter: click.Parameter) -> SearchStrategy[str]:
    """What a person types as the value: usual, nearly right, or odd."""
    name, kind = parameter.name or "", parameter.type
    usual = USUAL.get(name)
    if usual is None:
        if isinstance(kind, click.Choice):
            usual = of(*kind.choices)
        elif kind.name in ("integer", "integer range", "float"):
            usual = (whole if kind.name != "float" else numbers).map(str)
        else:
            usual = of(*PATHS)
    return mostly(usual, odd).map(lambda word: word.replace("\0", ""))


@composite
def line(draw: DrawFn, entry: str, name: str) -> tuple[str, ...]:
    """A command line of this subcommand with some of its options, once in a while twice, or one that it lacks."""
    command = app.commands[entry].get_command(click.Context(app), name)  # type: ignore[attr-defined]
    assert command is not None
    words: list[str] = []
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    chosen = draw(st.lists(st.sampled_from(options), max_size=5)) if options else []
    for option in chosen:
        flag = draw(st.sampled_from([*option.opts, *option.secondary_opts]))
        if option.is_flag:
            words.append(flag)
        elif draw(st.integers(0, 30)):
            value = draw(_value(option))
            words += [f"{flag}={value}"] if draw(st.booleans()) and flag.startswith("--") else [flag, value]
        else:
            words.append(flag)
    for argument in arguments:
        words += [draw(_value(argument)) for _ in range(draw(st.integers(1, 3)) if argument.nargs < 0 else 1)]
    if not draw(st.integers(0, 15)):
        words.insert(draw(st.integers(0, len(words))), draw(odd))
    if not draw(st.integers(0, 20)):
        words = draw(st.permutations(words))
    return entry, name, *(word.replace("\0", "") for word in words)


def _kept_small(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same, but for commands that would train: of the tiny profile alone, or refused by a budget of nothing."""
    entry, name, *rest = words
    if name in ("run", "study", "decide"):
        rest = ["--local", *rest] if "--profile" in rest or any("--profile=" in word for word in rest) else rest
        own = ["--profile", TINY] if not any(word.startswith("--profile") for word in rest) else []
        limits = [] if TINY in rest or own else ["--budget", "0"]
        rest = [*rest, *own, *limits]
    if name in ("study", "report", "figures", "notebooks"):
        rest.append("--no-lectures")
    if name == "preregister":  # writes into the project's own folder
        rest = [*rest, "--profile", "missing"]
    return entry, name, *rest


def _prepared(root: Path) -> None:
    """What paths lead to."""
    cwd = root / "cwd"
    (cwd / "bad.py").write_text("X = 1/0\n")
    (cwd / "dangling").symlink_to("nowhere")
    (cwd / "loop").symlink_to("loop")


def _of_lines(entry: str) -> Cases:
    names = app.commands[entry].list_commands(click.Context(app))  # type: ignore[attr-defined]
    lines = st.sampled_from(names).flatmap(lambda name: line(entry, name)).map(_kept_small)
    bare = st.lists(odd, max_size=3).map(lambda words: (entry, *words))
    return st.builds(
        lambda words, template: Case(words, edit=_prepared, template=template, writes=_outputs(words)),
        mostly(lines, bare, 40),
        TEMPLATES,
    )


def _outputs(words: tuple[str, ...]) -> tuple[str, ...]:
    """What a command writes because an argument names it."""
    places = [word for word in words if "{root}" not in word] if "export" in words else []
    uris = [word.partition("=")[2] or word for word in words if "sqlite:///" in word]
    return tuple(f"cwd/{place}" for place in (*places, *(uri.partition("sqlite:///")[2] for uri in uris)) if place)


# ---------------------------------------------------------------- make


MAKE_VARIABLES = ("PROFILE", "EXPERIMENTS", "SEEDS", "DATA", "STORE", "RESULTS")


# ---------------------------------------------------------------- the environment

VARIABLES: Mapping[str, list[str]] = VALUES["variables"]
READING = (
    typed("experiments list"),
    typed(f"experiments plan --profile {TINY}"),
    typed(f"experiments status --profile {TINY}"),
    typed("experiments plan --profile smoke --json"),
    typed(f"analysis report --no-lectures --profile {TINY}"),
    typed(f"experiments export new.zip --profile {TINY}"),
    typed(f"experiments evaluate --profile {TINY} --device cpu"),
    typed(f"experiments run --local --profile {TINY} --budget 0"),
)


@composite
def _settings(draw: DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(list(VARIABLES)), min_size=1, max_size=3, unique=True))
    values = {name: draw(mostly(of(*VARIABLES[name]), odd, 3)) for name in names}
    return {name: value.replace("\0", "") for name, value in values.items() if not name.startswith("PYTHON")}


def environment() -> Cases:
    return st.builds(
        lambda words, settings, template: Case(words, environment=settings, template=template, writes=("cwd/new.zip",)),
        of(*READING),
        _settings(),
        TEMPLATES,
    )


# ---------------------------------------------------------------- specifications


@cache
def _specification() -> dict[str, Any]:
    from experiments import planned
    from experiments.profiles import SMOKE

    trials = planned(SMOKE)
    return {kind: trial.to_dict() for trial in trials for kind in [type(trial).__name__]}


def _from_dict(content: bytes) -> None:
    from study.spec import InputError, Trial
    from study.store import atomic

    try:
        value = atomic.decoded(content)
    except ValueError:
        return
    trial = Trial.from_dict(value)
    assert trial.to_dict() == json.loads(json.dumps(trial.to_dict())) or trial.id
    try:
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))).id == trial.id
    except InputError as error:
        raise AssertionError(f"a specification that was read is not read again: {error}") from None


OWN_PROFILES = VALUES["profiles"]


def specifications() -> Cases:
    values = st.sampled_from(["Trial", "DetectionTrial"]).flatmap(lambda kind: in_json(_specification()[kind]))
    read = values.map(lambda content: Case(call=partial(_from_dict, content), files={"spec.json": content}))
    own = st.builds(
        lambda words, content: Case(words, files={"cwd/tiny.py": content}, template="folders", writes=("cwd/new.zip",)),
        of(*(words for words in READING if TINY in words)),
        st.sampled_from(OWN_PROFILES).map(lambda content: content.encode("latin-1")),
    )
    return mostly(read, own, 12)


# ---------------------------------------------------------------- a store's files

READ_STORE = (
    typed(f"experiments status --profile {TINY}"),
    typed(f"experiments status --json --profile {TINY}"),
    typed(f"experiments plan --profile {TINY}"),
    typed(f"experiments plan --json --profile {TINY} --watts 1 --price 1"),
    typed(f"experiments run --local --profile {TINY} --budget 0"),
    typed(f"experiments evaluate --profile {TINY} --device cpu"),
    typed(f"experiments export new.zip --profile {TINY}"),
    typed(f"experiments export new.zip --weights all --profile {TINY}"),
    typed("experiments verify results/tiny/index.html"),
    typed(f"analysis report --no-lectures --profile {TINY}"),
    typed(f"analysis figures --no-lectures --profile {TINY}"),
    typed("experiments import bundle.zip"),
    typed("dashboards ui"),
    typed(f"dashboards watch --profile {TINY}"),
    typed(f"dashboards metrics --profile {TINY}"),
)
WITHOUT_MLFLOW = READ_STORE[:5] + READ_STORE[-2:]
JSON_FILES = ("run.json", "progress.json", "spec.json", "store.json", "launch.json", "probes.json")


def _probe() -> dict[str, Any]:
    names = ("condition", "machine", "device", "torch", "python")
    counts = ("threads", "updates", "first_seconds", "update_seconds", "evaluation_seconds", "last_evaluation_seconds")
    return {**dict.fromkeys(names, "x"), **dict.fromkeys((*counts, "memory_bytes"), 1), "diverged_at": None}


def _files_named(root: Path, name: str) -> list[Path]:
    return sorted((root / STORE).glob(f"**/{name}")) or [root / STORE / name]


@composite
def store_files(draw: DrawFn) -> Case:
    """Any file of a store, altered or damaged, then a command that reads the store."""
    template = draw(TEMPLATES)
    words = draw(of(*(READ_STORE if template == "study" else WITHOUT_MLFLOW)))
    name = draw(of(*JSON_FILES, "run.json", "run.json"))
    which, seed = draw(st.integers(0, 9)), draw(st.integers(0, 2**20))

    def edit(root: Path) -> None:
        path = _files_named(root, name)[which % len(_files_named(root, name))]
        old = path.read_bytes() if path.exists() else json.dumps([_probe()] if name == "probes.json" else {}).encode()
        path.write_bytes(_drawn(in_json(json.loads(old)), seed))
        edit.__doc__ = f"{path.relative_to(root)}: {path.read_bytes()[:600]!r}"

    return Case(words, edit=Edit(edit), template=template, writes=("cwd/new.zip",))


def _drawn(strategy: SearchStrategy[Any], seed: int) -> Any:
    """A value that the seed alone decides: what is altered is known only once the sandbox is there."""
    from random import Random

    from hypothesis.internal.conjecture.data import ConjectureData

    data = ConjectureData(random=Random(seed))
    return data.draw(strategy)


class Edit:
    """An edit of a sandbox that prints as what it did."""

    def __init__(self, edit: Callable[[Path], object]) -> None:
        self.edit = edit

    def __call__(self, root: Path) -> None:
        self.edit(root)

    def __str__(self) -> str:
        return str(self.edit.__doc__)


OTHER_STATES = ("missing", "folder", "link", "dangling", "empty", "socket")


@composite
def store_states(draw: DrawFn) -> Case:
    """A file or folder of a store that is gone, a folder, a link, or empty."""
    template = draw(TEMPLATES)
    words = draw(of(*(READ_STORE if template == "study" else WITHOUT_MLFLOW)))
    names = (
        "run.json",
        "progress.json",
        "spec.json",
        "store.json",
        "launch.json",
        "probes.json",
        "mlflow.db",
        "*.checkpoint",
    )
    name = draw(
        of(
            *names,
            "records.parquet",
            "layers.parquet",
            "evaluations.parquet",
            "test_wrong.bits",
            "checkpoints",
            "trials",
            "artifacts",
        )
    )
    state, which = draw(of(*OTHER_STATES)), draw(st.integers(0, 9))

    def edit(root: Path) -> None:
        import shutil
        import socket

        path = _files_named(root, name)[which % len(_files_named(root, name))]
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        match state:
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to(root / "cwd/tiny.py")
            case "dangling":
                path.symlink_to("nowhere")
            case "empty":
                path.write_bytes(b"")
            case "socket":
                with socket.socket(socket.AF_UNIX) as server:
                    import os

                    here = os.getcwd()
                    os.chdir(path.parent)
                    server.bind(path.name)
                    os.chdir(here)
        edit.__doc__ = f"{path.relative_to(root)} is {state}"

    return Case(words, edit=Edit(edit), template=template, writes=("cwd/new.zip",))


# ---------------------------------------------------------------- measurements


@composite
def tables(draw: DrawFn) -> pa.Table:
    """A Parquet table with some of the columns of a curve, of any types, lengths and values."""
    names = draw(
        st.lists(
            of(
                "iteration",
                "train_loss",
                "train_error_pct",
                "test_error_pct",
                "learning_rate",
                "id",
                "x",
                "layer",
                "value",
                "split",
                "protocol",
                "measure",
                "nets",
                "images",
            ),
            max_size=6,
            unique=True,
        )
    )
    rows = draw(st.integers(0, 4))
    columns = {}
    for name in names:
        kind = draw(
            of(pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()), pa.bool_(), pa.binary(), pa.timestamp("s"))
        )
        values = {
            "int64": st.none() | st.integers(-(2**63), 2**63 - 1),
            "double": st.none() | st.floats(),
            "string": st.none() | text,
            "bool": st.none() | st.booleans(),
            "binary": st.none() | st.binary(max_size=5),
            "timestamp[s]": st.none() | st.integers(-(10**12), 10**12),
        }.get(str(kind), st.none() | st.lists(st.integers(0, 5), max_size=2))
        columns[name] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


@composite
def measurements(draw: DrawFn) -> Case:
    """A Parquet file or the bits of a result, damaged or another table, sealed or not."""
    template = draw(TEMPLATES)
    words = draw(of(*(READ_STORE if template == "study" else WITHOUT_MLFLOW)))
    name = draw(
        of("records.parquet", "layers.parquet", "evaluations.parquet", "records_so_far.parquet", "test_wrong.bits")
    )
    table, sealed, seed = draw(st.none() | tables()), draw(st.booleans()), draw(st.integers(0, 2**20))

    def edit(root: Path) -> None:
        path = _files_named(root, name)[0]
        old = path.read_bytes() if path.exists() else b""
        content = _drawn(damaged(old), seed) if table is None else parquet(table)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if sealed:
            _seal(path.parent / "run.json", name, table, content)
        edit.__doc__ = f"{path.relative_to(root)}, sealed {sealed}: {content[:400]!r} {table}"

    return Case(words, edit=Edit(edit), template=template, writes=("cwd/new.zip",))


def _seal(account: Path, name: str, table: pa.Table | None, content: bytes) -> None:
    """Let the account seal what is there: an intruder, or another version, would."""
    if not account.exists():
        return
    values = json.loads(account.read_bytes())
    if name == "test_wrong.bits":
        values["tags"] |= {
            "test_wrong": str(8 * len(content)),
            "test_wrong_sha256": hashlib.sha256(content).hexdigest(),
        }
    elif table is not None:
        try:
            digest = table_digest(table)
        except Exception:
            return
        of_records = {"records": str(table.num_rows)} if name == "records.parquet" else {}
        values["tags"] |= {f"{name.removesuffix('.parquet')}_sha256": digest} | of_records
    account.write_text(json.dumps(values))


# ---------------------------------------------------------------- MLflow's database

SQL = VALUES["sql"]
TAGS = VALUES["tags"]


@composite
def databases(draw: DrawFn) -> Case:
    words = draw(of(*READ_STORE[:2], *READ_STORE[5:]))
    seed, damage = draw(st.integers(0, 2**20)), not draw(st.integers(0, 3))
    quoted = mostly(odd, whole.map(str), 4).map(
        lambda word: "'" + word.encode("utf-8", "replace").decode().replace("'", "''") + "'"
    )
    statements = [
        draw(of(*SQL)).format(value=draw(quoted), key=f"'{draw(of(*TAGS))}'", number=draw(whole))
        for _ in range(draw(st.integers(1, 3)))
    ]

    def edit(root: Path) -> None:
        path = root / STORE / "mlflow.db"
        if damage:
            path.write_bytes(_drawn(damaged(path.read_bytes()), seed))
            edit.__doc__ = f"mlflow.db damaged by {seed}"
        else:
            alter_database(path, statements)
            edit.__doc__ = f"mlflow.db: {statements}"

    return Case(words, edit=Edit(edit), template="study", writes=("cwd/new.zip",))


# ---------------------------------------------------------------- bundles


MERGES = (
    typed("experiments merge bundle.zip whole.zip --output new.zip"),
    typed("experiments merge whole.zip bundle.zip --output new.zip --prefer bundle.zip"),
)
READ_BUNDLE = (
    *MERGES * 4,
    typed("experiments import bundle.zip"),
    typed("experiments import bundle.zip --json"),
    typed(f"analysis report --no-lectures --bundle bundle.zip --profile {TINY}"),
    typed("analysis figures --no-lectures --bundle bundle.zip"),
)
MEMBERS = (*VALUES["members"], "a" * 300)


@composite
def bundles(draw: DrawFn) -> Case:
    """A bundle whose bytes are damaged, or whose members were altered, with digests in the manifest that fit or not."""
    words, seed = draw(of(*READ_BUNDLE)), draw(st.integers(0, 2**20))
    action, fit, member = draw(st.integers(0, 5)), draw(mostly(st.just(True), st.just(False))), draw(of(*MEMBERS))
    big = draw(of(0, 0, 0, 2**31))

    def edit(root: Path) -> None:
        path = root / BUNDLE
        (root / "cwd/whole.zip").write_bytes(path.read_bytes())
        if action == 0:
            path.write_bytes(_drawn(damaged(path.read_bytes()), seed))
        else:
            _rewritten(path, action, fit, member, seed, big)
        edit.__doc__ = f"bundle: action {action}, fit {fit}, member {member!r}, seed {seed}"

    return Case(words, edit=Edit(edit), template="study", writes=("cwd/new.zip",))


def _rewritten(path: Path, action: int, fit: bool, member: str, seed: int, big: int) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    names = [name for name in contents if name != "manifest.json"]
    name = names[seed % len(names)]
    manifest = json.loads(contents["manifest.json"])
    if action in (1, 2):
        changed = in_json(json.loads(contents[name])) if name.endswith(".json") else damaged(contents[name])
        contents[name] = _drawn(changed, seed)
    elif action == 3:
        contents[member] = contents.pop(name) if seed % 2 else b"hostile"
    elif action == 4:
        del contents[name]
    if fit:
        manifest["members"] = {
            one: hashlib.sha256(content).hexdigest() for one, content in contents.items() if one != "manifest.json"
        }
    if action == 5:
        manifest = _drawn(altered(manifest), seed)
    contents["manifest.json"] = json.dumps(manifest).encode("utf-8", "replace")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in contents.items():
            archive.writestr(one, content)
        if seed % 7 == 0:
            archive.writestr("manifest.json", b"{}")


# ---------------------------------------------------------------- checkpoints and weights


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Hostile:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch pwned",)


tensors = st.builds(
    lambda shape, kind: torch.ones(shape, dtype=kind) if kind != torch.float32 else torch.full(shape, 0.5),
    st.lists(of(0, 1, 3, 4, 10, 16), max_size=4),
    of(torch.float32, torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.bfloat16),
)


@composite
def checkpoints(draw: DrawFn) -> Case:
    """A checkpoint whose bytes or values were altered, with a checksum that fits or not; then who reads it."""
    words = draw(of(READ_STORE[5], READ_STORE[7], typed(f"experiments run --local --profile {TINY} --seeds 1")))
    fit, seed, how = draw(mostly(st.just(True), st.just(False))), draw(st.integers(0, 2**20)), draw(st.integers(0, 4))
    value, tensor, name = (
        draw(anything),
        draw(tensors),
        draw(of("%09d.checkpoint", "x.checkpoint", "1e3.checkpoint", "-1.checkpoint")),
    )

    def edit(root: Path) -> None:
        (path,) = sorted((root / STORE).glob("trials/plain*/checkpoints/*.checkpoint"))
        _, _, payload = path.read_bytes().partition(b"\n")
        state = torch.load(io.BytesIO(payload), weights_only=True)
        if how == 0:
            payload = _drawn(damaged(payload), seed)
        elif how == 1:
            payload = _saved(value)
        elif how == 2:
            payload = _saved(Hostile())
        else:
            holder, key = [(state, key) for key in state][seed % len(state)]
            inner = holder[key]
            if isinstance(inner, dict) and inner and seed % 3:
                holder, key = inner, list(inner)[seed % len(inner)]
            if how == 3:
                del holder[key]
            else:
                holder[key] = tensor if seed % 2 else value
            payload = _saved(state)
        checksum = hashlib.sha256(payload).hexdigest().encode() if fit else b"0" * 64
        path.write_bytes(checksum + b"\n" + payload)
        if name.startswith(("x", "1", "-")):
            path.with_name(name).write_bytes(path.read_bytes())
        if words[1] == "run":  # as if the trial had been interrupted
            (path.parents[1] / "run.json").unlink()
        edit.__doc__ = (
            f"checkpoint: how {how}, fit {fit}, seed {seed}, {value!r}, {tuple(tensor.shape)} {tensor.dtype}, {name}"
        )

    return Case(words, edit=Edit(edit), template="study", writes=("cwd/new.zip",))


@cache
def _weights() -> dict[str, torch.Tensor]:
    from torchvision.models import resnet18

    return {name: value for name, value in resnet18(num_classes=3).state_dict().items()}


@composite
def weights(draw: DrawFn) -> Case:
    """A file of weights that is damaged, of another net, wrapped, or no weights at all."""
    state: Any = dict(_weights())
    names = list(state)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(names))
        match draw(st.integers(0, 5)):
            case 0:
                state.pop(name, None)
            case 1:
                state[name] = draw(tensors)
            case 2:
                state[draw(odd)] = draw(tensors)
            case 3:
                state[name] = draw(anything)
            case 4:
                state = {f"module.{key}": value for key, value in state.items()}
            case _:
                state[draw(scalars.filter(lambda one: isinstance(one, int | str | None)))] = draw(anything)
    wrapped = draw(of("", "", "state_dict", "model", "net", "x"))
    content: Any = {wrapped: state, "best_prec1": 1.0, "epoch": 3} if wrapped else state
    kind = draw(st.integers(0, 9))
    if kind == 0:
        raw = draw(damaged(_saved(state)))
    elif kind == 1:
        raw = draw(of(*OTHER_FILES))
    elif kind == 2:
        raw = _saved(draw(of(Hostile(), [1], "x", None, torch.ones(3))))
    elif kind == 3:
        raw = _safetensors(draw)
    else:
        raw = _saved(content)
    name = draw(of("w.pth", "w.safetensors" if kind == 3 else "w.pt", "w"))
    more = draw(
        st.lists(
            of(
                ("--data", "digits"),
                ("--data", "cifar10"),
                ("--protocol", "10-crop"),
                ("--model", "resnet34"),
                ("--json",),
            ),
            max_size=2,
        )
    )
    line = typed(f"experiments evaluate --weights {name} --data images:zoo --device cpu")
    return Case((*line, *(word for words in more for word in words)), files={f"cwd/{name}": raw, **_zoo()})


def _safetensors(draw: DrawFn) -> bytes:
    header = draw(
        in_json(
            {"conv1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"format": "pt"}}
        )
    )
    length = draw(of(len(header), len(header), 0, 2**63, 10**6))
    return struct.pack("<Q", length) + header + draw(st.binary(max_size=16))


@cache
def _zoo() -> dict[str, bytes]:
    """A folder of photographs, of three classes."""
    files = {}
    for split in ("train", "val"):
        for label in "abc":
            files[f"cwd/data/zoo/{split}/{label}/1.png"] = _image("PNG", (40, 30), "RGB")
    return files


# ---------------------------------------------------------------- arrays: IDX and CIFAR


def _decode(name: str, files: Mapping[str, bytes]) -> None:
    """Decode a data set whose checksums are those of these files: damage that the checksums would refuse at once."""
    root = Path("data")
    for place, content in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        unpacked = content
        if place.endswith("ubyte.gz"):
            try:
                unpacked = gzip.decompress(content)
            except Exception:
                unpacked = b""
        key = Path(place).name.removesuffix(".gz") if "ubyte" in place else place
        sources.CHECKSUMS[key] = hashlib.md5(unpacked).hexdigest()
    sources.DEBIAN = root / "debian"
    arrays.load(_described(name), root)


@cache
def _described(name: str) -> Data:
    return DIGITS if name == "digits" else arrays.describe(name, Path("/nonexistent"))


def _idx(shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + bytes(int(np.prod(shape)))


@composite
def idx(draw: DrawFn) -> Case:
    raw, counts = "FashionMNIST/raw", {"train": 10, "t10k": 5}
    files = {}
    for part, count in counts.items():
        files[f"{raw}/{part}-images-idx3-ubyte"] = _idx((count, 28, 28))
        files[f"{raw}/{part}-labels-idx1-ubyte"] = _idx((count,))
    place = draw(st.sampled_from(list(files)))
    headers = st.builds(
        lambda start, sizes, rest: bytes(start) + b"".join(struct.pack(">i", size) for size in sizes) + rest,
        st.tuples(of(0, 1), of(0, 8), of(8, 9, 13, 0), of(0, 1, 3, 4, 255)),
        st.lists(of(-1, 0, 1, 5, 10, 28, 29, 2**31 - 1), max_size=4),
        st.binary(max_size=12),
    )
    files[place] = draw(damaged(files[place]) | headers)
    if draw(st.booleans()):
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
        if draw(st.booleans()):
            files[f"{place}.gz"] = draw(damaged(files[f"{place}.gz"]))
    return _array_case(draw, "fashion-mnist", files)


@composite
def cifar(draw: DrawFn) -> Case:
    name = draw(of("cifar10", "cifar100"))
    facts, files = sources.CIFAR[name], {}
    for file in (*facts.train, facts.test):
        files[file] = pickle.dumps({"data": np.zeros((3, 3072), np.uint8), facts.labels: [0, 1, 2]}, protocol=2)
    place = draw(st.sampled_from(list(files)))
    wrong = st.one_of(
        damaged(files[place]),
        anything.map(partial(pickle.dumps, protocol=2)),
        st.dictionaries(of("data", "labels", "fine_labels", b"data"), anything, max_size=3).map(pickle.dumps),
        of(
            *(
                {"data": np.zeros(shape, kind), facts.labels: [0, 1]}
                for shape in ((2, 3072), (2, 3071), (0, 3072), (6144,))
                for kind in ("u1", "f4", "O")
            )
        ).map(pickle.dumps),
    )
    files[place] = draw(wrong)
    if draw(st.booleans()):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for file, content in files.items():
                if draw(st.integers(0, 9)):
                    info = tarfile.TarInfo(file)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        archive = buffer.getvalue()
        files = {facts.archive: draw(damaged(archive)) if draw(st.booleans()) else archive}
    return _array_case(draw, name, files)


def _array_case(draw: DrawFn, name: str, files: Mapping[str, bytes]) -> Case:
    """Decoded with fitting checksums, or refused by a command for those that do not fit."""
    if draw(st.integers(0, 3)):
        return Case(call=partial(_decode, name, files), writes=("cwd/data",))
    words = typed(f"experiments run --local --profile {TINY} --data {name} --seeds 1")
    placed = {f"cwd/data/{place}": content for place, content in files.items()}
    return Case(words, template="folders", files=placed)


# ---------------------------------------------------------------- images


def _image(form: str, size: tuple[int, int], mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


FORMS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L"),
    "WEBP": ("RGB",),
    "TIFF": ("F", "I;16"),
}
NAMED = VALUES["images"]
CLASSES = VALUES["classes"]


@composite
def images(draw: DrawFn) -> bytes:
    form = draw(st.sampled_from(list(FORMS)))
    size = draw(mostly(of((8, 8), (16, 16)), of((1, 1), (8, 9), (1, 300), (300, 1), (4000, 4))))
    content = _image(form, size, draw(st.sampled_from(FORMS[form])))
    return draw(mostly(st.just(content), damaged(content) | _png_header(), 3))


@composite
def _png_header(draw: DrawFn) -> bytes:
    """A PNG that claims any size: a bomb, if it is believed."""
    import zlib

    width, height = draw(of(0, 1, 8, 65536, 2**31 - 1)), draw(of(0, 1, 8, 65536, 2**31 - 1))
    header = struct.pack(">IIBBBBB", width, height, draw(of(1, 8, 16)), draw(of(0, 2, 3, 6)), 0, 0, draw(of(0, 1)))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@composite
def folders(draw: DrawFn) -> Case:
    """A folder of images as people have them, for a plan, which describes them, or a run, which decodes them."""
    kind = draw(of("folder", "folder", "images"))
    splits = draw(of(("train", "test"), ("",))) if kind == "folder" else ("train", draw(of("val", "test", "valid")))
    files: dict[str, bytes] = {}
    classes = draw(st.lists(of(*CLASSES), min_size=1, max_size=3, unique=True))
    one = draw(images())
    for split in splits:
        for label in classes:
            for name in draw(st.lists(of(*NAMED), max_size=3, unique=True)):
                place = "/".join(part for part in ("cwd/data/x", split, label, name) if part)
                files[place] = draw(mostly(st.just(one), images(), 3))
    if not draw(st.integers(0, 5)):
        files[f"cwd/data/x/{draw(of(*NAMED, 'train', 'train/1.png'))}"] = one
    files = {
        place: content for place, content in files.items() if not any(other.startswith(f"{place}/") for other in files)
    }
    if kind == "folder":
        words = draw(of(typed("experiments plan"), typed("experiments run --local")))
        line = (*words, "--profile", TINY, "--data", "folder:x", "--seeds", "1")
    else:
        raw = _saved(_weights())
        files["cwd/w.pth"] = raw
        line = typed("experiments evaluate --weights w.pth --data images:x --device cpu")
    return Case(line, files=files, template="folders", edit=_link_in if not draw(st.integers(0, 9)) else None)


def _link_in(root: Path) -> None:
    (root / "cwd/data/x").mkdir(parents=True, exist_ok=True)
    (root / "cwd/data/x/loop").symlink_to(".")
    (root / "cwd/data/x/gone.png").symlink_to("nowhere")


@composite
def shards(draw: DrawFn) -> Case:
    """Tar shards that are cut, mislabelled or hold something else."""
    files = {}
    for split in ("train", "val"):
        buffer = io.BytesIO()
        with tarfile.open(
            fileobj=buffer, mode="w", format=draw(of(tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        ) as tar:
            for number in range(draw(st.integers(0, 3))):
                key = draw(mostly(st.just(f"{number:08d}"), of("../x", "/x", "x/y", "é", "\udcff", ""), 6))
                label = draw(
                    mostly(
                        of(b"0", b"1", b"2"),
                        of(b"", b"-1", b"x", b"99999999999999999999", "٣".encode(), b"\xff", b"0\n", b"1000000"),
                        4,
                    )
                )
                for suffix, content in ((draw(of("jpg", "png", "JPEG", "txt")), draw(images())), ("cls", label)):
                    if draw(st.integers(0, 8)):
                        info = tarfile.TarInfo(f"{key}.{suffix}")
                        info.size = len(content)
                        info.type = draw(
                            mostly(st.just(tarfile.REGTYPE), of(tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE), 12)
                        )
                        tar.addfile(info, io.BytesIO(content))
        content = buffer.getvalue()
        files[f"cwd/data/x/{split}-000000.tar"] = draw(mostly(st.just(content), damaged(content), 3))
    files["cwd/w.pth"] = _saved(_weights())
    line = typed("experiments evaluate --weights w.pth --data shards:x --device cpu")
    return Case(line, files=files)


# ---------------------------------------------------------------- annotations


def _annotations(name: str, part: Any, files: Mapping[str, bytes]) -> None:
    """Read annotations of any number of images: the official count is waived."""
    from study.data import annotations, detection_sets

    annotations._check_count = lambda *_: None
    for place, content in files.items():
        path = Path("data") / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    facts = detection_sets.SETS[name]
    for example, _ in annotations._READERS[facts.format](name, Path("data"), part or facts.train[0], facts.classes):
        assert np.isfinite(example.boxes).all() and (example.boxes[:, 2:] >= example.boxes[:, :2]).all()


VOC_XML = """<annotation><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"""
BILLION = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaaaaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 20}">' for i in range(9))
    + "]><annotation><size><width>&j;</width></size></annotation>"
)


@composite
def voc(draw: DrawFn) -> Case:
    figure = mostly(of("1", "5", "10"), numbers.map(str) | odd, 5)
    values = {key: draw(figure) for key in ("w", "h", "x1", "y1", "x2", "y2")}
    name = draw(mostly(st.sampled_from(VOC_CLASSES), odd, 5))
    xml = VOC_XML.format(**values, name=name, difficult=draw(mostly(of("0", "1"), odd, 5))).encode(
        "utf-8", "surrogatepass"
    )
    content = draw(mostly(st.just(xml), damaged(xml) | st.just(BILLION.encode()), 3))
    base, ids = (
        "VOCdevkit/VOC2007",
        draw(
            mostly(
                st.just(b"000001\n"),
                of(b"", b"\n\n", b"000001", b"../x\n", b"000001 1\n", b"\xff\n", b"000001\n000001\n"),
                5,
            )
        ),
    )
    files = {
        f"{base}/Annotations/000001.xml": content,
        f"{base}/JPEGImages/000001.jpg": draw(mostly(st.just(_image("JPEG", (10, 10), "RGB")), images(), 4)),
        f"{base}/ImageSets/Main/trainval.txt": ids,
    }
    return _annotated(draw, "voc07+12", files)


@composite
def coco(draw: DrawFn) -> Case:
    from study.data.detection_sets import COCO_CLASSES

    whole_file = {
        "info": {},
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": 10, "height": 10},
            {"id": 2, "file_name": "2.jpg", "width": 10, "height": 10},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 5, 5],
                "area": 25,
                "iscrowd": 0,
                "segmentation": [],
            }
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(COCO_CLASSES, 1)],
    }
    part = draw(of("images", "annotations", "categories", ""))
    if part:
        value = {**whole_file, part: draw(altered(whole_file[part], 3))}
        content = json.dumps(value).encode("utf-8", "surrogatepass")
    else:
        content = draw(in_json(whole_file))
    files = {"coco/annotations/instances_train2014.json": content}
    files |= {f"coco/train2014/{number}.jpg": _image("JPEG", (10, 10), "RGB") for number in (1, 2)}
    return _annotated(draw, "coco14", files)


def _annotated(draw: DrawFn, name: str, files: Mapping[str, bytes]) -> Case:
    return Case(call=partial(_annotations, name, None, files), writes=("cwd/data",))


# ---------------------------------------------------------------- results

RESULT_FILES = ("manifest.json", "claims.json", "runs.parquet", "curves.parquet", "index.html", "decisions.json")


@composite
def results(draw: DrawFn) -> Case:
    """A file of a rendered folder, altered; then who reads it, or writes it again."""
    words = draw(
        of(
            READ_STORE[8],
            READ_STORE[8],
            READ_STORE[9],
            READ_STORE[10],
            typed(f"experiments run --local --profile {TINY} --until-decided S41-1 --budget 0"),
        )
    )
    name, seed = draw(of(*RESULT_FILES, "manifest.json", "manifest.json")), draw(st.integers(0, 2**20))

    def edit(root: Path) -> None:
        path = root / "cwd/results/tiny" / name
        old = path.read_bytes() if path.exists() else b"{}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_drawn(in_json(json.loads(old)) if name.endswith(".json") else damaged(old), seed))
        edit.__doc__ = f"{name}: {path.read_bytes()[:500]!r}"

    return Case(words, edit=Edit(edit), template="study")


KINDS: Mapping[str, tuple[int, Callable[[], Cases]]] = {  # with the share of inputs that each has, in parts
    "experiments": (32, partial(_of_lines, "experiments")),
    "analysis": (10, partial(_of_lines, "analysis")),
    "dashboards": (8, partial(_of_lines, "dashboards")),
    "environment": (6, environment),
    "specifications": (40, specifications),
    "store files": (24, store_files),
    "store states": (8, store_states),
    "measurements": (12, measurements),
    "databases": (2, databases),
    "bundles": (12, bundles),
    "checkpoints": (2, checkpoints),
    "weights": (5, weights),
    "IDX": (8, idx),
    "CIFAR": (8, cifar),
    "images": (6, folders),
    "shards": (4, shards),
    "VOC": (8, voc),
    "COCO": (8, coco),
    "results": (2, results),
}
