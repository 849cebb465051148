"""docker/compose.yaml: pinned, healthy or done before what needs it, and without a password in it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = Path("docker/compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = "drift-mlflow-server"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version_or_is_built_here(name: str):
    image = SERVICES[name]["image"]
    assert image == OURS or re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", image)


def test_what_is_waited_for_is_healthy_or_done():
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            ends = wait["condition"] == "service_completed_successfully"
            assert ends or "healthcheck" in SERVICES[name], name


def test_every_place_that_is_named_is_there():
    for service in SERVICES.values():
        assert {config["source"] for config in service.get("configs", ())} <= COMPOSE["configs"].keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= COMPOSE["volumes"].keys()
    built = [service["build"] for service in SERVICES.values() if "build" in service]
    assert [Path("docker", build["context"], build["dockerfile"]).is_file() for build in built] == [True]
    sent = {line.removeprefix("!") for line in Path(".dockerignore").read_text(encoding="utf-8").splitlines()}
    assert set(re.findall(r"^COPY (\S+)", Path("docker/mlflow/Dockerfile").read_text(encoding="utf-8"), re.M)) <= sent


def test_compose_can_put_no_text_of_its_own_into_a_service_that_is_read_only():
    """It refuses to start one: 'cannot create config in read-only service: `file` is the sole supported option'."""
    inline = {name for name, config in COMPOSE["configs"].items() if "content" in config}
    told = {name: {one["source"] for one in service.get("configs", ())} for name, service in SERVICES.items()}
    assert [name for name, service in SERVICES.items() if service.get("read_only") and told[name] & inline] == []


def test_no_password_is_in_the_file_and_each_is_asked_for():
    secrets = set(re.findall(r"\$\{(\w+(?:PASSWORD|KEY))", TEXT))
    assert secrets == {"POSTGRES_PASSWORD", "S3_SECRET_KEY", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"}
    assert all(f"${{{secret}:?" in TEXT for secret in secrets)
    assert secrets <= set(re.findall(r"[A-Z][A-Z0-9_]+", Path("docs/mlflow.md").read_text(encoding="utf-8")))


def test_only_mlflow_and_its_tls_are_open_and_mlflow_to_this_machine_alone():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"mlflow", "tls"} and all(port.startswith("127.0.0.1:") for port in ports["mlflow"])
    assert SERVICES["tls"]["profiles"] == ["tls"]
