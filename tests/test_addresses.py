"""A password of an address is in nothing that is kept or shown: it goes where MLflow and libpq look for it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.profiles import SMOKE
from study.addresses import apart
from study.data import sources
from study.execution import Execution
from study.printable import bare
from study.spec import InputError
from study.store import atomic
from study.store.mlflow import client

SECRET = "s3cr3t"
CIFAR10 = replace(SMOKE.data, name="cifar10")


@pytest.mark.parametrize(
    ("given", "kept", "variables"),
    [
        ("", "", {}),
        ("http://host:5000", "http://host:5000", {}),
        ("postgresql+psycopg2://me@host/runs", "postgresql+psycopg2://me@host/runs", {}),
        ("sqlite:////a:1@b/mlflow.db", "sqlite:////a:1@b/mlflow.db", {}),
        ("http://host:5000/a:b@c", "http://host:5000/a:b@c", {}),
        (
            f"https://me:{SECRET}@host:5000/a",
            "https://host:5000/a",
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET},
        ),
        (
            "http://a%40b:p%2Fq%3A%40@[::1]:5000",
            "http://[::1]:5000",
            {"MLFLOW_TRACKING_USERNAME": "a@b", "MLFLOW_TRACKING_PASSWORD": "p/q:@"},
        ),
        (f"postgresql+psycopg2://me:{SECRET}@host/runs", "postgresql+psycopg2://me@host/runs", {"PGPASSWORD": SECRET}),
        (
            f"postgresql://me@host/runs?password={SECRET}&sslmode=require",
            "postgresql://me@host/runs?sslmode=require",
            {"PGPASSWORD": SECRET},
        ),
    ],
)
def test_a_password_leaves_the_address(given: str, kept: str, variables: dict[str, str]) -> None:
    assert apart(given) == (kept, variables)
    Execution(storage=Path("store"), data_root=Path("data"), tracking_uri=kept)


@pytest.mark.parametrize(
    "given",
    [
        f"mysql+pymysql://me:{SECRET}@host/runs",
        f"http://{SECRET}@host:5000",
        f"http://me:{SECRET}/x@host:5000",
        f"http://host:5000/?token={SECRET}",
        f"https://me:pass@host/?api_token={SECRET}",
        f"postgresql://host/runs?passfile=x&sslpassword={SECRET}",
    ],
)
def test_a_password_that_no_variable_can_have_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(InputError, match="cannot be kept apart|would be kept and shown") as refused:
        apart(given)
    assert SECRET not in str(refused.value)
    with pytest.raises(InputError, match="would be kept and shown; give it in MLFLOW_TRACKING_USERNAME") as refused:
        Execution(storage=Path("store"), data_root=Path("data"), tracking_uri=given)
    assert SECRET not in str(refused.value)
    with pytest.raises(InputError, match="give it in the variables of its tools") as refused:
        atomic.place(f"s3://key:{SECRET}@bucket/folder")
    assert SECRET not in str(refused.value)


SELECTED = ("--profile", "smoke", "--experiments", "shortcut-options")
SERVER, DATABASE = "http://me:{}@127.0.0.1:9", "postgresql+psycopg2://me:{}@127.0.0.1:9/x"


@pytest.mark.parametrize(
    ("entry", "words", "kind"),
    [
        ("experiments", ("status", *SELECTED), SERVER),
        ("experiments", ("run", *SELECTED, "--local"), SERVER),
        ("experiments", ("export", "out.zip", *SELECTED), SERVER),
        ("analysis", ("figures", *SELECTED), SERVER),
        ("dashboards", ("ui",), SERVER),
        ("experiments", ("status", *SELECTED), DATABASE),
    ],
)
def test_no_command_prints_the_password_of_an_address(
    command: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entry: str, words: str, kind: str
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    done = command(*words, "--storage", "store", "--tracking-uri", kind.format(SECRET), entry=entry)
    assert done.code == 2 and "tracking" in done.err  # type: ignore[attr-defined]
    assert SECRET not in done.out + done.err  # type: ignore[attr-defined]
    assert SECRET in (os.environ["MLFLOW_TRACKING_PASSWORD"], os.environ["PGPASSWORD"])
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot reach (http://me:{SECRET}@host:5000/x)", "cannot reach (http://host:5000/x)"),
        (f"proxy 'http://u:{SECRET}@p:3128', of http_proxy", "proxy 'http://p:3128', of http_proxy"),
        (f"git https://oauth2:{SECRET}@git.example/a.git", "git https://git.example/a.git"),
        (f"https://bucket/x?X-Amz-Signature={SECRET}&n=1", "https://bucket/x?X-Amz-Signature=***&n=1"),
        (f"redis://:{SECRET}@host", "redis://host"),
        ("no address: a@b, 3:4", "no address: a@b, 3:4"),
        ("s3://bucket/run:1@2 http://host/a:b@c", "s3://bucket/run:1@2 http://host/a:b@c"),
    ],
)
def test_texts_are_shown_without_passwords(text: str, shown: str) -> None:
    assert bare(text) == shown


def test_the_passwords_of_mirrors_are_in_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STUDY_DATA_MIRRORS", f"http://me:{SECRET}@127.0.0.1:9/data")
    monkeypatch.setitem(sources.MIRRORS, "cifar10", ())
    for offline in ("", "1"):
        monkeypatch.setenv("STUDY_OFFLINE", offline)
        with pytest.raises(InputError, match="http://127.0.0.1:9/data/cifar-10-python.tar.gz") as refused:
            sources.decode(CIFAR10, tmp_path)
        assert SECRET not in str(refused.value)


def test_what_a_refusing_server_means_is_said() -> None:
    from mlflow.exceptions import MlflowException

    assert "--allowed-hosts NAME,NAME:*" in client.first_line(MlflowException("403: Invalid Host header - possible"))
    assert "MLFLOW_TRACKING_USERNAME" in client.first_line(MlflowException("failed with error code 401 != 200."))
    assert client.first_line(OSError(f"http://me:{SECRET}@host")) == "http://host"
