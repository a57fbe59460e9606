"""The Helm chart: valid for every cluster that it allows, hardened, and without secrets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.support.deployment_tools import ROOT, run_tool

CHART = ROOT / "docker" / "helm" / "bnrecal"

# The oldest version that the chart allows, and the newest that the tool has schemas for.
VERSIONS = ("1.27.0", "1.37.0")

MINIMAL: dict[str, Any] = {"blobs": "s3://bucket/prefix"}
FULL: dict[str, Any] = {
    "blobs": "gs://bucket",
    "image": {"repository": "example.org/bnrecal", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "secrets": {
        "ledger": {"name": "db", "key": "uri"},
        "tokens": {"name": "t", "key": "k"},
        "environment": ["storage"],
    },
    "settings": {"lease_seconds": 30, "poll_seconds": 0.5, "pt2": True},
    "environment": {"AWS_REGION": "eu-central-1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
    "serviceAccount": {"annotations": {"example.org/role": "r"}},
    "api": {
        "autoscaling": {"enabled": False},
        "replicas": 3,
        "disruptionBudget": {"maxUnavailable": "25%"},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "runner": {"replicas": 4, "settings": {"max_concurrent_runs": 2}},
    "ray": {
        "enabled": True,
        "shards": 4,
        "image": {"tag": "test-ray"},
        "workers": {"maxReplicas": 8, "nodeSelector": {"a": "b"}},
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "bnrecal.example.org",
        "tlsSecret": "tls",
        "annotations": {"a": "b"},
    },
    "networkPolicy": {
        "clients": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}

# What KubeRay's RayCluster may hold, of what the chart uses; its custom resource is not installed.
RAY_KEYS = {
    "spec": {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"},
    "head": {"rayStartParams", "template", "serviceType"},
    "worker": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    },
}

Render = Callable[..., str]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return a function that renders a chart with values; it raises where Helm rejects them."""
    folder = tmp_path_factory.mktemp("values")

    def _render(values: dict[str, Any], chart: Path = CHART) -> str:
        path = folder / "values.json"
        path.write_text(json.dumps(values))
        done = run_tool("helm", "template", "one", chart, "--values", path)
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout

    return _render


def objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def templates(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of an object."""
    if one["kind"] == "RayCluster":
        groups = [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]
        return [group["template"] for group in groups]
    return [one["spec"]["template"]] if one["kind"] == "Deployment" else []


def pods(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in objects(text):
        for template in templates(one):
            labels = template["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], template["spec"]


def faults(text: str, folder: Path, version: str) -> str:
    """Return what the tool reports; a RayCluster is replaced by its pod templates."""
    path = folder / "objects.yaml"
    found = []
    for one in objects(text):
        if one["kind"] == "RayCluster":
            head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "node"}}
            found += [{**head, "template": template} for template in templates(one)]
        else:
            found.append(one)
    path.write_text(yaml.safe_dump_all(found))
    words = ("--strict", "--quiet", "--kubernetes-version", version)
    done = run_tool("kubernetes-validate", *words, path)
    assert done.returncode == 0 or done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_lint(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(values))
    done = run_tool("helm", "lint", "--strict", CHART, "--values", tmp_path / "values.json")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_objects_follow_the_schemas(
    render: Render, values: dict[str, Any], version: str, tmp_path: Path
) -> None:
    text = render(values)
    kinds = {one["kind"] for one in objects(text)}
    assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert ("HorizontalPodAutoscaler" in kinds) == (values is MINIMAL)
    assert ("Ingress" in kinds) == (values is FULL)
    assert faults(text, tmp_path, version) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "reported"),
    [
        ("terminationGracePeriodSeconds:", "terminationGracePeriodSecond:", "was unexpected"),
        ("runAsNonRoot: true", "runAsNonRoot: 'yes'", "is not of type 'boolean'"),
        ("containerPort: 8000", "containerPort: http", "is not of type 'integer'"),
        ("kind: PodDisruptionBudget", "kind: PodDisruptionBudjet", "PodDisruptionBudjet"),
    ],
)
def test_planted_faults_are_found(
    render: Render, right: str, wrong: str, reported: str, tmp_path: Path
) -> None:
    chart = tmp_path / "bnrecal"
    shutil.copytree(CHART, chart)
    changed = 0
    for path in (chart / "templates").iterdir():
        text = path.read_text()
        changed += text.count(right)
        path.write_text(text.replace(right, wrong))
    assert changed
    assert reported.lower() in faults(render(MINIMAL, chart), tmp_path, "1.37.0").lower()


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        ({}, "/blobs"),
        ({"blobs": "/srv/bnrecal"}, "/blobs"),
        ({**MINIMAL, "runer": {}}, "runer"),
        ({**MINIMAL, "api": {"replica": 2}}, "replica"),
        ({**MINIMAL, "api": {"replicas": "two"}}, "/api/replicas"),
        ({**MINIMAL, "settings": {"ledger": "postgresql://user:password@db/x"}}, "ledger"),
        ({**MINIMAL, "settings": {"LEASE_SECONDS": 3}}, "LEASE_SECONDS"),
        ({**MINIMAL, "runner": {"scratch": "much"}}, "/runner/scratch"),
        ({**MINIMAL, "image": {"repository": "x", "digest": "sha256:1"}}, "/image/digest"),
        ({**MINIMAL, "ingress": {"enabled": True}}, "ingress.host is required"),
    ],
)
def test_wrong_values_are_rejected(render: Render, values: dict[str, Any], reported: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reported)):
        render(values)


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_settings_exist(render: Render, values: dict[str, Any]) -> None:
    """Every variable is a setting, and its value is accepted."""
    for component, pod in pods(render(values)):
        if component.startswith("ray"):
            continue
        (container,) = pod["containers"]
        given = {
            one["name"].removeprefix("BNRECAL_").lower(): one.get("value")
            for one in container["env"]
            if one["name"].startswith("BNRECAL_")
        }
        assert given.keys() <= Settings.model_fields.keys()
        plain = {name: value for name, value in given.items() if value is not None}
        settings = Settings.model_validate(plain)
        assert bool(settings.max_concurrent_runs) == (component == "runner")
        on_ray = component == "runner" and values is FULL
        assert (settings.runner, settings.shards) == (("ray", "4") if on_ray else ("", "1"))
        assert plain["blobs"] == values["blobs"]
    assert settings.lease_seconds == values.get("settings", {}).get("lease_seconds", 20)


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_secrets_are_referred_to(render: Render, values: dict[str, Any]) -> None:
    text = render(values)
    assert "Secret" not in {one["kind"] for one in objects(text)}
    for component, pod in pods(text):
        (container,) = pod["containers"]
        named = {one["name"]: one.get("valueFrom") for one in container["env"]}
        secrets = {name for name, source in named.items() if source is not None}
        expected = {"api": {"BNRECAL_LEDGER", "BNRECAL_TOKENS"}, "runner": {"BNRECAL_LEDGER"}}
        assert secrets == expected.get(component, set())
        assert bool(container.get("envFrom")) == (values is FULL)


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_pods_have_the_hardening_of_the_container_test(
    render: Render, values: dict[str, Any]
) -> None:
    tested = (ROOT / "docker" / "test.sh").read_text()
    for option in ("--read-only", "--cap-drop ALL", "no-new-privileges", 'id -u)" = 10001'):
        assert option in tested
    found = dict(pods(render(values)))
    ray = {"ray-head", "ray-worker"} if values is FULL else set()
    assert found.keys() == {"api", "runner"} | ray
    for pod in found.values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {one["mountPath"] for one in container["volumeMounts"]}
        assert mounts <= {"/data", "/tmp", "/dev/shm", "/etc/bnrecal/ray"}
        assert all("emptyDir" in one or one["name"] == "token" for one in pod["volumes"])
        assert "memory" in container["resources"]["limits"]


def test_probes_are_routes_of_the_server(render: Render) -> None:
    (pod,) = (pod for component, pod in pods(render(MINIMAL)) if component == "api")
    (container,) = pod["containers"]
    paths = {
        container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"/healthz", "/readyz"}
    openapi = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert paths <= openapi["paths"].keys()


def test_ray_cluster(render: Render) -> None:
    text = render(FULL)
    (cluster,) = (one["spec"] for one in objects(text) if one["kind"] == "RayCluster")
    (worker,) = cluster["workerGroupSpecs"]
    head = cluster["headGroupSpec"]
    for keys, found in (("spec", cluster), ("head", head), ("worker", worker)):
        assert found.keys() <= RAY_KEYS[keys]
    for group in (head, worker):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert (head["rayStartParams"]["num-cpus"], worker["rayStartParams"]["memory"]) == (
        "0",
        "12884901888",
    )
    assert worker["maxReplicas"] == 8
    found = dict(pods(text))
    for component in ("ray-head", "ray-worker", "runner"):
        (container,) = found[component]["containers"]
        assert container["image"] == "example.org/bnrecal:test-ray"
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert given["RAY_AUTH_MODE"] == "token"
        token = {one["mountPath"] for one in container["volumeMounts"] if one["name"] == "token"}
        assert str(Path(given["RAY_AUTH_TOKEN_PATH"]).parent) in token
    # Servers neither have the token nor can reach the cluster.
    (api,) = found["api"]["containers"]
    assert not any(one["name"].startswith("RAY") for one in api["env"])
    assert not any(one["name"] == "token" for one in found["api"]["volumes"])
    (policy,) = (
        one["spec"]
        for one in objects(text)
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-ray")
    )
    nodes = {"ray-head", "ray-worker", "runner"}
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    for selector in (policy["podSelector"], peer["podSelector"]):
        assert set(selector["matchExpressions"][0]["values"]) == nodes
    documented = (ROOT / "docs" / "sharded-runs.md").read_text()
    for port in rule["ports"]:
        assert str(port["port"]) in documented


def test_servers_and_runners_get_the_variables_of_opentelemetry(render: Render) -> None:
    for component, pod in pods(render(FULL)):
        if component in {"api", "runner"}:
            (container,) = pod["containers"]
            given = {one["name"]: one.get("value") for one in container["env"]}
            assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://c:4318"


def test_no_ray_unless_enabled(render: Render) -> None:
    assert "ray" not in render(MINIMAL).lower()


def test_policies_select_the_pods_and_let_nothing_reach_runners(render: Render) -> None:
    text = render({**FULL, "ray": {"enabled": False}})
    labels = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"][
            "template"
        ]["metadata"]["labels"]
        for one in objects(text)
        if one["kind"] == "Deployment"
    }
    policies = [one["spec"] for one in objects(text) if one["kind"] == "NetworkPolicy"]
    for policy in policies:
        wanted = policy["podSelector"]["matchLabels"]
        (selected,) = (name for name, given in labels.items() if wanted.items() <= given.items())
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        if selected == "runner":
            assert policy["ingress"] == []
        else:
            assert policy["ingress"][0]["from"] == FULL["networkPolicy"]["clients"]
        assert policy["egress"][1:] == FULL["networkPolicy"]["egress"]
    assert len(policies) == len(labels) == 2


def test_versions_are_those_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert chart["version"] == chart["appVersion"] == found[1]
