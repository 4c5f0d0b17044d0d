"""What infra/ holds is what its readers take: Ray's own schema, Kubernetes', Prometheus', a Dockerfile's linter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

INFRA = Path(__file__).resolve().parents[1] / "infra"
KUBERNETES = "1.30"
KUBERAY = ("kuberay.yaml", "kuberay-job.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


@pytest.mark.parametrize("name", ["cluster-aws.yaml", "cluster-onprem.yaml"])
def test_cluster_files_are_ones_that_ray_up_takes(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(name)
    validate_config(prepare_config(config))
    with pytest.raises((jsonschema.ValidationError, ValueError, NotImplementedError)):
        validate_config(prepare_config({**config, "provider": {"type": "moon"}}))
    for kind in ("head", "worker"):
        assert "--metrics-export-port=8080" in config[f"{kind}_start_ray_commands"][-1]


def test_the_schedules_job_is_one_that_kubernetes_takes() -> None:
    (cron,) = [document for document in documents("kuberay.yaml") if document["kind"] == "CronJob"]
    kubernetes_validate.validate(cron, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**cron, "spec": {**cron["spec"], "schedul": "x"}}, KUBERNETES, strict=True)


def cluster_spec() -> dict[str, Any]:
    (found,) = [document for document in documents("kuberay.yaml") if document["kind"] == "RayCluster"]
    return found["spec"]


def test_every_pod_of_a_ray_cluster_is_one_that_kubernetes_takes() -> None:
    spec = cluster_spec()
    templates = [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert len(templates) == 3
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "x", **template["metadata"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]


def test_ray_is_the_version_that_is_installed_and_gpus_are_asked_for() -> None:
    spec = cluster_spec()
    assert spec["rayVersion"].rsplit(".", 1)[0] == ray.__version__.rsplit(".", 1)[0]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in spec["workerGroupSpecs"]]
    assert ["nvidia.com/gpu" in limit for limit in limits] == [False, True]


def test_the_monitor_selects_those_pods_and_a_port_that_they_have() -> None:
    (monitor,) = documents("kuberay-podmonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    spec = cluster_spec()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template = group["template"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}


def entrypoints() -> list[list[str]]:
    found = {document["kind"]: document for name in KUBERAY for document in documents(name)}
    container = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    return [found["RayJob"]["spec"]["entrypoint"].split(), container["args"]]


@pytest.mark.parametrize("words", entrypoints(), ids=lambda words: words[1].rsplit("/", 1)[1])
def test_their_commands_are_ones_that_ingest_takes(words: list[str]) -> None:
    import tyro

    from pipeline.options import IngestOptions

    assert words[:2] == ["python", "/opt/avlens/pipeline/ingest.py"]
    assert tyro.cli(IngestOptions, args=words[2:]).kind == "youtube"


def test_the_runtime_environment_is_one_that_ray_takes() -> None:
    from ray.runtime_env import RuntimeEnv

    (found,) = documents("runtime_env.yaml")
    assert RuntimeEnv(**found)["env_vars"] == {"OMP_NUM_THREADS": "1"}


def test_the_dockerfile_passes_its_linter_and_runs_as_nobody_special() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", INFRA / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (INFRA / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.M) and re.search(r"^FROM python:\d+\.\d+\.\d+-", text, re.M)
    copied = re.findall(r"^COPY \S+ (\S+) ", text, re.M)
    assert {"stores", "models", "pipeline", "attacks", "pyproject.toml"} <= set(copied)
    assert all((INFRA.parent / name).exists() for name in copied)


def test_compose_mounts_files_that_are_there() -> None:
    (compose,) = documents("compose.yml")
    assert set(compose["services"]) == {"ray", "prometheus", "grafana"}
    assert documents("grafana-datasource.yml")[0]["datasources"][0]["url"] == "http://prometheus:9090"
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (INFRA / source).exists()
        image = service.get("image")
        assert image is None or re.search(r":v?\d+\.\d+\.\d+$", image), image


def names_in(text: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"ray_(avlens_\w+)", text)}


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    told_in = ("job_metrics", "encoder_pool", "rank_worker")
    sources = "".join((INFRA.parent / f"pipeline/{name}.py").read_text() for name in told_in)
    there = set(re.findall(r'"(avlens_\w+)"', sources))
    dashboard = json.loads((INFRA / "grafana.json").read_text())
    asked = names_in(json.dumps(dashboard)) | names_in((INFRA / "alerts.yml").read_text())
    assert asked <= there, asked - there
    assert there - asked <= {"avlens_clips_decoded_total", "avlens_shard_seconds", "avlens_shards_committed_total"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 8


def test_every_alert_has_its_place_in_the_runbook() -> None:
    (rules,) = documents("alerts.yml")
    runbook = (INFRA.parent / "docs/operators.md").read_text()
    lines = [re.sub(r"[^a-z0-9 ]", "", line.lower()).strip() for line in re.findall(r"^### (.*)$", runbook, re.M)]
    headings = {line.replace(" ", "-") for line in lines}
    for rule in rules["groups"][0]["rules"]:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/operators.md" and anchor in headings, anchor


def promtool(*words: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool: it comes with Debian's package prometheus")
    done = subprocess.run([tool, *words], cwd=INFRA, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_ones_that_prometheus_takes() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_each_alert_fires_for_its_cause_and_for_nothing_else() -> None:
    promtool("test", "rules", "alerts_test.yml")
