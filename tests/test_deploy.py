"""deploy/ as kubectl renders it, held against the KubeRay CRDs, Kubernetes' own schemas and this project's commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs.embed import EmbedConfig
from jobs.entrypoint import resolve
from jobs.index import IndexConfig
from jobs.progress import Figures
from jobs.train import TrainConfig
from serve.app import ServeArgs
from serve.metrics import Metrics

ROOT = Path(__file__).parent.parent
FOLDERS = ["base", "overlays/single-gpu", "overlays/scheduled"]
JOBS: dict[str, Any] = {"train": TrainConfig, "embed": EmbedConfig, "index": IndexConfig}
CRD_FILES = {"RayJob": "ray.io_rayjobs.yaml", "RayService": "ray.io_rayservices.yaml"}


@pytest.fixture(scope="module", params=FOLDERS)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: nothing renders the kustomize folders")
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def crds() -> dict[str, dict[str, Any]]:
    folder = os.environ.get("CMIR_KUBERAY_CRDS")
    if not folder:
        pytest.skip("CMIR_KUBERAY_CRDS is not set: KubeRay's CRDs are not here")
    return {kind: _schema(Path(folder) / name) for kind, name in CRD_FILES.items()}


def _schema(path: Path) -> dict[str, Any]:
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    (current,) = (version for version in versions if version["name"] == "v1")
    return _closed(current["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it names properties, and Kubernetes' own formats left out."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("type", None)
        closed.pop("pattern", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return closed


def _top(schema: dict[str, Any]) -> dict[str, Any]:
    """`metadata` is Kubernetes' own object, which a CRD leaves open."""
    return {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}


def test_custom_resources_fit_the_crds_with_no_unknown_field(rendered: list, crds: dict[str, dict[str, Any]]) -> None:
    ours = [document for document in rendered if document["apiVersion"] == "ray.io/v1"]
    assert sorted(document["kind"] for document in ours) == ["RayJob", "RayJob", "RayJob", "RayService"]
    for document in ours:
        jsonschema.validate(document, _top(crds[document["kind"]]))


def test_a_misspelled_field_would_be_noticed(rendered: list, crds: dict[str, dict[str, Any]]) -> None:
    job = next(document for document in rendered if document["kind"] == "RayJob")
    job = {**job, "spec": {**job["spec"], "shutdownAfterJobFinish": True}}
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate(job, _top(crds["RayJob"]))


def test_built_in_kinds_fit_kubernetes(rendered: list) -> None:
    built_in = [document for document in rendered if not document["apiVersion"].startswith("ray.io")]
    assert {"Namespace", "ConfigMap"} <= {document["kind"] for document in built_in}
    for document in built_in:
        kubernetes_validate.validate(document, "1.32", strict=True)


def test_everything_lies_in_one_namespace_and_uses_one_image(rendered: list) -> None:
    assert {document["metadata"].get("namespace", "cmir") for document in rendered} == {"cmir"}
    images = {image for document in rendered for image in _values(document, "image")}
    assert images == {"cmir:0.1.0"}


def test_worker_groups_scale_between_bounds_and_some_have_gpus(rendered: list) -> None:
    for document in rendered:
        for cluster in [*_values(document, "rayClusterSpec"), *_values(document, "rayClusterConfig")]:
            assert cluster["enableInTreeAutoscaling"] is True
            for group in cluster["workerGroupSpecs"]:
                assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = [limit for document in rendered for limit in _values(document, "limits")]
    assert any("nvidia.com/gpu" in limit for limit in limits)


def test_job_commands_and_settings_are_ones_the_jobs_take(rendered: list, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = (d["data"] for d in rendered if d["metadata"]["name"] == "cmir-settings")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for document in rendered:
        if document["kind"] != "RayJob":
            continue
        python, script, *flags = shlex.split(document["spec"]["entrypoint"])
        job = Path(script).stem
        assert (python, (ROOT / "jobs" / f"{job}.py").is_file()) == ("python", True)
        config = resolve(job, JOBS[job], _parsed(flags))
        assert any(uri.startswith("s3://cmir/") for uri in config.uris())


def test_the_service_carries_the_serve_file_and_its_args_are_ours(rendered: list, request: Any) -> None:
    (service,) = (document for document in rendered if document["kind"] == "RayService")
    text = service["spec"]["serveConfigV2"]
    folder = "overlays/single-gpu" if "fused" in text else "base"
    assert text == (ROOT / "deploy" / folder / "serve.yaml").read_text()
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    assert application.import_path == "serve.app:build"
    assert ServeArgs.model_validate(application.args).gallery == "s3://cmir/gallery"


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("serve.yaml")), ids=lambda path: path.parent.name)
def test_a_service_that_other_machines_reach_asks_for_keys(path: Path) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert config.http_options.host == "0.0.0.0"
    (application,) = config.applications
    assert ServeArgs.model_validate(application.args).api_keys_file


def _parsed(flags: list[str]) -> dict[str, Any]:
    """--a b --c -> {"a": "b", "c": True}."""
    values: dict[str, Any] = {}
    for i, flag in enumerate(flags):
        if flag.startswith("--"):
            follower = flags[i + 1] if i + 1 < len(flags) and not flags[i + 1].startswith("--") else True
            values[flag[2:].replace("-", "_")] = follower
    return values


def _values(node: Any, key: str) -> list[Any]:
    """Every value of a key, anywhere in a document."""
    if isinstance(node, list):
        return [value for part in node for value in _values(part, key)]
    if not isinstance(node, dict):
        return []
    return [value for name, value in node.items() if name == key] + [
        value for part in node.values() for value in _values(part, key)
    ]


def _monitoring() -> list[dict[str, Any]]:
    folder = ROOT / "deploy" / "monitoring"
    return [
        yaml.safe_load((folder / name).read_text()) for name in ("podmonitor.yaml", "alerts.yaml", "dashboard.json")
    ]


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    names_of = {family.name for family in Metrics().registry.collect()}
    names_of |= {f"cmir_embed_{field.name}" for field in fields(Figures)}
    there_are = {f"ray_{name}{end}" for name in names_of for end in ("", "_total", "_bucket", "_sum", "_count")}
    pod_monitor, alerts, dashboard = _monitoring()
    expressions = _values(alerts, "expr") + _values(dashboard, "expr")
    assert len(expressions) > 20
    for expression in expressions:
        names = re.findall(r"ray_cmir_\w+", expression)
        assert names, expression
        assert set(names) <= there_are, expression
    assert pod_monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


def test_monitoring_renders_into_the_namespace_of_the_rest() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: nothing renders the kustomize folders")
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "monitoring")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(done.stdout))
    assert {document["kind"] for document in documents} == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert {document["metadata"]["namespace"] for document in documents} == {"cmir"}
    (dashboard,) = (document for document in documents if document["kind"] == "ConfigMap")
    assert json.loads(dashboard["data"]["dashboard.json"])["uid"] == "cmir"


def test_every_node_shows_its_metrics_at_the_port_that_is_scraped(rendered: list) -> None:
    for document in rendered:
        if document["kind"] in CRD_FILES:
            containers = [container for pod in _values(document, "containers") for container in pod]
            listening = [container["ports"] for container in containers if "ports" in container]
            assert len(listening) > 1
            assert all({"containerPort": 8080, "name": "metrics"} in ports for ports in listening)
