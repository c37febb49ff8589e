"""What is there to copy names flags, files, services and addresses that exist.

No container can be built or run here: this is all that is checked of these files.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from vllm.config.ec_transfer import ECTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vllm_script.frontend.peers import FILE
from vllm_script.patches.probing import is_supported
from vllm_script.plugin import register
from vllm_script.server import proxy_command
from vllm_script.server.proxy import HEALTH_TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "server" / "deploy"


@pytest.fixture(scope="module")
def engine_args(checkpoint):
    """engine_args(arguments of `vllm serve`, the model first) -> what vLLM makes of them."""
    register()
    parser = FlexibleArgumentParser()
    serve = make_arg_parser(parser.add_subparsers().add_parser("serve"))
    serve.set_defaults(model=str(checkpoint("llava-next")))  # no hub is asked

    def parsed(words):
        return AsyncEngineArgs.from_cli_args(parser.parse_args(["serve", *words[1:]]))

    return parsed


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def kubernetes(kind):
    return {d["metadata"]["name"]: d for d in documents("kubernetes.yaml") if d["kind"] == kind}


def container(workload):
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return only


def mounted_claim(workload, folder="/rows"):
    """The claim of the volume that a workload mounts there."""
    volumes = {v["name"]: v for v in workload["spec"]["template"]["spec"]["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in container(workload)["volumeMounts"]}
    name = volumes[mounts[folder]]["persistentVolumeClaim"]["claimName"]
    return kubernetes("PersistentVolumeClaim")[name]


def test_the_image_is_of_a_vllm_that_is_supported():
    text = (DEPLOY / "Dockerfile").read_text()
    (version,) = re.findall(r"^FROM vllm/vllm-openai:v([\d.]+)$", text, re.MULTILINE)
    assert is_supported(version)
    instructions = [line.split()[0] for line in text.splitlines() if line[:1].isupper()]
    assert instructions == ["FROM", "COPY", "RUN", "ENTRYPOINT"]


def test_compose_mounts_and_scrapes_what_is_there(engine_args):
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source, _, _ = volume.partition(":")
            assert source in compose["volumes"] or (DEPLOY / source).resolve().is_file()
    build = services["server"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    args = engine_args(services["server"]["command"])
    assert args.additional_config["script"] == {"keep_ratio": 0.11}
    (prometheus,) = documents("prometheus.yaml")
    (scraped,) = prometheus["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["server:8000"]}]
    (source,) = documents("grafana/datasource.yaml")
    assert source["datasources"][0]["url"].startswith("http://prometheus:")
    (dashboards,) = documents("grafana/dashboards.yaml")
    folder = dashboards["providers"][0]["options"]["path"]
    assert any(f":{folder}/" in volume for volume in services["grafana"]["volumes"])


def test_instances_differ_in_their_role_alone(engine_args):
    roles, others = [], []
    for name in "script-encoder", "script-model":
        args = container(kubernetes("StatefulSet")[name])["args"]
        assert engine_args(args).additional_config["script"] == {"keep_ratio": 0.11}
        (transfer,) = (arg for arg in args if arg.startswith("--ec-transfer-config="))
        values = json.loads(transfer.partition("=")[2])
        ECTransferConfig(**values)
        roles.append(values.pop("ec_role"))
        others.append((values, [arg for arg in args if arg != transfer]))
    assert roles == ["ec_producer", "ec_consumer"]
    assert others[0] == others[1]


def test_instances_share_one_folder_that_many_nodes_can_write():
    for workload in kubernetes("StatefulSet").values():
        assert mounted_claim(workload)["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_cleaner_removes_what_nobody_asks_for(tmp_path):
    job = kubernetes("CronJob")["script-cleaner"]["spec"]["jobTemplate"]
    assert mounted_claim(job) == mounted_claim(kubernetes("StatefulSet")["script-model"])
    command = container(job)["command"]
    assert shlex.join(command) in (DEPLOY / "README.md").read_text()
    (tmp_path / "model").mkdir()
    now = time.time()
    for age, name in [
        *((49, name) for name in ("model/a.safetensors", "model/.b.safetensors", FILE)),
        (23, "model/c.safetensors"),
    ]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now, now - age * 3600))
    subprocess.run([str(tmp_path) if word == "/rows" else word for word in command], check=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"model", "model/c.safetensors", FILE}


def test_the_image_has_nothing_that_git_ignores():
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    assert lines == [".git", *(f"**/{name}" for name in ignored)]


def test_the_proxy_is_asked_for_as_long_as_it_asks():
    probe = container(kubernetes("Deployment")["script-proxy"])["readinessProbe"]
    assert probe["timeoutSeconds"] > 2 * HEALTH_TIMEOUT


def test_the_proxy_knows_every_instance():
    parser = argparse.ArgumentParser()
    proxy_command.add_arguments(parser)
    args = parser.parse_args(container(kubernetes("Deployment")["script-proxy"])["args"])
    for name, addresses in ("script-encoder", args.encoder), ("script-model", args.server):
        workload = kubernetes("StatefulSet")[name]
        assert workload["spec"]["serviceName"] == name
        assert kubernetes("Service")[name]["spec"]["clusterIP"] == "None"
        replicas = range(workload["spec"]["replicas"])
        assert addresses == [f"http://{name}-{number}.{name}:8000" for number in replicas]


def test_services_select_what_there_is():
    workloads = {**kubernetes("StatefulSet"), **kubernetes("Deployment")}
    labels = [w["spec"]["template"]["metadata"]["labels"] for w in workloads.values()]
    assert all(w["spec"]["selector"]["matchLabels"] in labels for w in workloads.values())
    assert all(s["spec"]["selector"] in labels for s in kubernetes("Service").values())
