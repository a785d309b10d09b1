"""Nobody comes in: what listens is on loopback, or asks for a token or a password; no secret is in what is written."""

import base64
import gzip
import io
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import pyarrow.parquet as pq
import pytest
import requests
from common import (
    ROOT,
    MLflowServer,
    Processes,
    Study,
    execution_of,
    stop,
    wait_for,
    wait_until_training,
    worker_of,
)

pytestmark = pytest.mark.slow
Start = Callable[..., Study]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
CLIENT = "import ray; ray.init(address='127.0.0.1:{}', log_to_driver=False); print(len(ray.nodes()), 'nodes')"
SELECTED = ("--profile", "smoke", "--experiments", "shortcut-options")


def listening(processes: Iterable[psutil.Process]) -> dict[str, set[str]]:
    """The addresses on which each of these programs listens, by its name."""
    found: dict[str, set[str]] = {}
    for process in processes:
        with suppress(psutil.Error):
            ips = {one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN}
            found.setdefault(process.name(), set()).update(ips)
    return {name: ips for name, ips in found.items() if ips}


def ended(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of the study, or of Python, once it has ended."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


# Ray


def test_a_launchs_ray_listens_on_loopback_and_serves_holders_of_its_token_alone(tmp_path: Path, start: Start) -> None:
    execution = execution_of(tmp_path / "store")
    study = start(tmp_path / "store", tmp_path / "log")
    for trial in wait_until_training(execution, 2):
        stop(worker_of(execution, trial))  # so that Ray is there as long as it is asked
    found = listening(study.alive())
    assert {"gcs_server", "raylet"} <= set(found) and set.union(*found.values()) <= LOOPBACK, found
    (gcs,) = study.named("gcs_server")
    port = next(one.laddr.port for one in gcs.net_connections() if one.status == psutil.CONN_LISTEN)
    impatient = {"RAY_gcs_server_request_timeout_seconds": "5", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    impatient["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or it takes 127.0.0.1 for this machine's other address
    tokens = {"none": {"RAY_AUTH_MODE": "disabled"}}
    for name, token in (("wrong", secrets.token_hex(32)), ("right", gcs.environ()["RAY_AUTH_TOKEN"])):
        tokens[name] = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    done = {name: ended(["-c", CLIENT.format(port)], **impatient, **variables) for name, variables in tokens.items()}
    for refused in (done["none"], done["wrong"]):
        assert refused.returncode != 0 and "InvalidAuthToken" in refused.stderr, refused.stderr[-500:]
    assert done["right"].stdout == "1 nodes\n", done["right"].stderr[-500:]


def test_a_launch_without_ray_listens_nowhere(tmp_path: Path, start: Start) -> None:
    study = start(tmp_path / "store", tmp_path / "log", "--local")
    wait_until_training(execution_of(tmp_path / "store"), 1)
    assert listening(study.alive()) == {}
    study.ends()


# The study's own servers


def test_every_server_of_the_study_listens_on_loopback_and_refuses_other_names(tmp_path: Path) -> None:
    store = ("--storage", str(tmp_path / "store"))
    done = ended(["-m", "experiments", "run", *SELECTED, "--seeds", "1", "--local", *store])
    assert done.returncode == 0, done.stderr
    words = {"ui": store, "watch": (*SELECTED, *store), "metrics": (*SELECTED, *store)}
    for name, more in words.items():
        server = Processes([sys.executable, "-m", "dashboards", name, *more, "--port", "0"], tmp_path / name)
        try:
            address = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", server.output()), f"{name} is up")[0]  # noqa: B023
            wait_for(lambda: listening(server.alive()), f"{name} listens")  # noqa: B023
            assert set.union(*listening(server.alive()).values()) == {"127.0.0.1"}
            asked = {"": 200, "evil.example": 403, "localhost.evil.example": 403}
            for host, code in asked.items():
                headers = {"Host": host} if host else {}
                answered, text = wait_for(lambda: reached(address, headers), f"{name} answers")  # noqa: B023
                assert answered == code, (name, host)
                assert code == 200 or name == "ui" or "--allowed-hosts NAME" in text
        finally:
            server.kill_all()


def reached(address: str, headers: dict[str, str]) -> tuple[int, str] | None:
    with suppress(requests.ConnectionError):
        reply = requests.get(f"{address}/", headers=headers, timeout=20)
        return reply.status_code, reply.text
    return None


# MLflow


@contextmanager
def guarded(folder: Path, password: str, *options: str) -> Iterator[MLflowServer]:
    """An MLflow server on loopback whose one user is `admin`."""
    folder.mkdir()
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = MLflowServer(
        folder,
        f"sqlite:///{folder}/mlflow.db",
        *("--app-name", "basic-auth", *options),
        MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
        MLFLOW_AUTH_ADMIN_PASSWORD=password,
        MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(32),
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_a_study_logs_in_to_mlflow_and_a_wrong_password_is_refused_without_being_shown(tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf")
    right, wrong = secrets.token_hex(12), secrets.token_hex(12)
    (tmp_path / "home/.mlflow").mkdir(parents=True)
    (tmp_path / "home/.mlflow/credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {right}\n"
    )
    with guarded(tmp_path / "server", right) as server:

        def study(*words: str, uri: str = server.uri, **environment: str) -> subprocess.CompletedProcess[str]:
            where = ("--storage", str(tmp_path / "store"), "--tracking-uri", uri)
            home = {"HOME": str(tmp_path / "nowhere"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"} | environment
            return ended(["-m", "experiments", *words, *SELECTED, "--seeds", "1", *where], **home)

        assert (
            requests.get(f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1", timeout=20).status_code == 401
        )
        user = {"MLFLOW_TRACKING_USERNAME": "admin"}
        refused = [
            study("run", "--local"),
            study("run", "--local", **user, MLFLOW_TRACKING_PASSWORD=wrong),
            study("run", "--local", uri=server.uri.replace("//", f"//admin:{wrong}@")),
        ]
        for done in refused:
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            assert "it asks for a user: set MLFLOW_TRACKING_USERNAME" in done.stderr
            assert wrong not in done.stdout + done.stderr
        assert not list((tmp_path / "store/trials").glob("*"))  # refused before anything trains
        served = [
            study("run", "--local", **user, MLFLOW_TRACKING_PASSWORD=right),
            study("run", "--local", HOME=str(tmp_path / "home")),
            study("status", uri=server.uri.replace("//", f"//admin:{right}@")),
        ]
        for done in served:
            assert done.returncode == 0 and right not in done.stdout + done.stderr, done.stderr
        assert "trials have a result" in served[1].stdout


def test_a_name_that_the_server_does_not_allow_is_refused_with_the_option_that_allows_it(tmp_path: Path) -> None:
    server = MLflowServer(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "--allowed-hosts", "study.example")
    server.start()
    try:
        where = ("--storage", str(tmp_path / "store"), "--tracking-uri", server.uri)
        done = ended(["-m", "experiments", "status", *SELECTED, *where])
        assert done.returncode == 2 and "`mlflow server --allowed-hosts NAME,NAME:*` allows names" in done.stderr
        page = {"Origin": "http://evil.example", "Host": "study.example"}
        body = {"name": "theirs"}
        reply = requests.post(f"{server.uri}/api/2.0/mlflow/experiments/create", json=body, headers=page, timeout=20)
        assert reply.status_code == 403  # a page of another site cannot write (CORS)
    finally:
        server.kill()


# Secrets


def inside(content: bytes, name: str = "") -> Iterator[bytes]:
    """All that a file holds: as it is, unpacked, and decoded."""
    yield content
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member.encode()
                yield from inside(archive.read(member), member)
    elif content[:4] == b"PAR1":
        table = pq.ParquetFile(io.BytesIO(content))
        yield repr(table.metadata.metadata).encode()
        yield repr(table.read().to_pydict()).encode()
    elif content[:2] == b"\x1f\x8b":
        yield from inside(gzip.decompress(content))
    elif content[:5] == b"%PDF-":
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S):
            with suppress(zlib.error):
                yield zlib.decompress(stream)
    elif re.match(rb"[0-9a-f]{64}\n", content):  # a checkpoint, after its checksum
        yield from inside(content[65:])


def forms(secret: str) -> set[bytes]:
    """How a secret may be written: as it is, quoted, and as Basic authentication has it."""
    quoted = {secret, quote(secret, safe=""), secret[::-1]}
    encoded = {base64.b64encode(f"{user}{secret}".encode()).rstrip(b"=")[4:-4] for user in ("admin:", "", "a", "ab")}
    return {one.encode() for one in quoted} | encoded | {secret.encode("utf-16-le")}


def leaks(root: Path, planted: dict[str, str]) -> set[str]:
    """Which secret is in which file below a folder, or in its name."""
    found = set()
    for path in root.rglob("*"):
        contents = [os.fsencode(path)]
        with suppress(OSError, EOFError):  # Ray's files and sockets come and go
            if path.is_file() and not path.is_symlink():
                contents += inside(path.read_bytes())
        for kind, secret in planted.items():
            if any(form in content for content in contents for form in forms(secret)):
                found.add(f"{kind} is in {path}")
    return found


def test_a_secret_of_the_environment_is_in_nothing_that_a_whole_study_writes(tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf")
    kinds = ("aws", "hf", "generic", "proxy", "mirror", "git", "password", "option")
    planted = {kind: f"{kind}-{secrets.token_hex(12)}" for kind in kinds}
    home = tmp_path / "home"
    home.mkdir()
    (home / "gitconfig").write_text(
        f'[remote "origin"]\n\turl = https://oauth2:{planted["git"]}@git.example/study.git\n'
        f"[safe]\n\tdirectory = *\n[http]\n\textraHeader = Authorization: {planted['git']}\n"
    )
    scratch = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))  # short: Ray puts sockets there
    environment = {
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": planted["aws"],
        "HF_TOKEN": planted["hf"],
        "MY_API_KEY": planted["generic"],
        "http_proxy": f"http://me:{planted['proxy']}@127.0.0.1:9",
        "no_proxy": "*",
        "STUDY_DATA_MIRRORS": f"http://me:{planted['mirror']}@127.0.0.1:9/data",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": planted["password"],
        "RAY_BACKEND_LOG_LEVEL": "debug",
    }
    found: set[str] = set()
    over = threading.Event()

    def look_on() -> None:
        while not over.is_set():
            found.update(leaks(scratch, planted))
            time.sleep(0.5)

    looking = threading.Thread(target=look_on)
    where = ("--storage", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
    options = (*SELECTED, "--seeds", "1")
    try:
        with guarded(tmp_path / "server", planted["option"]) as server:
            uri = server.uri.replace("//", f"//admin:{planted['option']}@")
            words = [sys.executable, "-m", "analysis", "study", *options, *where, "--tracking-uri", uri]
            study = Processes([*words, "--profile-trace"], tmp_path / "said/study", **environment)
            looking.start()
            wait_for(lambda: study.process.poll() is not None, "the study ends", 500)
            assert study.process.returncode == 0, study.output()
            wait_for(lambda: not study.alive(), "its processes end")
            more = [
                ["experiments", "export", str(tmp_path / "all.zip"), "--weights", "all", *options, *where[:2]],
                ["experiments", "status", "--json", *options, *where[:2]],
            ]
            for number, line in enumerate(more):
                done = ended(["-m", *line, "--tracking-uri", uri], **environment)
                assert done.returncode == 0, done.stderr
                (tmp_path / f"said/{number}").write_text(done.stdout + done.stderr)
            away = [*more[1], "--tracking-uri", f"http://admin:{planted['option']}@127.0.0.1:9"]
            done = ended(["-m", *away], **environment, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
            (tmp_path / "said/away").write_text(done.stdout + done.stderr)
    finally:
        over.set()
        looking.join()
        shutil.rmtree(scratch, ignore_errors=True)
    (home / "gitconfig").unlink()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for kind in ("index.html", "all.zip", "mlflow.db", "runs.parquet", "run.json", "trace.json", "study", "away"):
        assert any(path.name == kind for path in files), f"there is no {kind}"
    assert found | leaks(tmp_path, planted) == set()


def test_what_is_searched_for_secrets_would_be_found(tmp_path: Path) -> None:
    """The search itself: in a zip within a zip, Parquet, a PDF's stream, a name, and as Basic authentication."""
    import pyarrow as pa

    secret = {"it": "planted-0123456789abcdef"}
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", f"x{secret['it']}y" * 3)
    with zipfile.ZipFile(tmp_path / "1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.zip", inner.getvalue())
    pq.write_table(pa.table({"tag": [secret["it"]] * 9}), tmp_path / "2.parquet", compression="zstd")
    (tmp_path / "3.pdf").write_bytes(b"%PDF-1\nstream\n" + zlib.compress(secret["it"].encode() * 2) + b"endstream")
    (tmp_path / f"4 {secret['it']}").touch()
    (tmp_path / "5").write_bytes(base64.b64encode(f"admin:{secret['it']}".encode()))
    (tmp_path / "6").write_bytes(b"0" * 64 + b"\n" + inner.getvalue())
    (tmp_path / "7").write_text("nothing")
    assert {Path(one.split(" is in ")[1]).name[0] for one in leaks(tmp_path, secret)} == set("123456")
