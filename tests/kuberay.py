"""The fields of KubeRay's RayCluster and RayJob that the files of experiments/cluster use, as a schema.

Own words for what KubeRay's API reference of 1.6 states and its custom resource definitions enforce
(github.com/ray-project/kuberay, `ray-operator/apis/ray/v1`; Apache License 2.0). Most of a definition's megabyte is
Kubernetes' own pod, for which `kubernetes_validate` has the schema. A field of KubeRay's that no file uses yet is not
in here; it is refused until it is.
"""

from typing import Any

TEXT, YES_OR_NO, POD = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
PARAMETERS = {"type": "object", "additionalProperties": TEXT}


def fields(*required: str, **known: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = fields("name", name=TEXT, namespace=TEXT)
    known = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    return fields(*known, **known)


HEAD = fields(
    *("template", "rayStartParams"),
    template=POD,
    rayStartParams=PARAMETERS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
WORKERS = fields(
    *("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    rayStartParams=PARAMETERS,
    template=POD,
)
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = fields(
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=YES_OR_NO,
    ttlSecondsAfterFinished=NUMBER,
    rayClusterSpec=CLUSTER,
)
SCHEMAS = {"RayCluster": resource("RayCluster", CLUSTER), "RayJob": resource("RayJob", JOB)}
