"""The examples say what they must, and the settings in them are settings that the service takes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config import Settings
from service.merge.policy_parser import parse_policy_file

EXAMPLES = Path(__file__).parents[2] / "examples"
GATEWAYS = [
    "envoy/jwt.yaml",
    "envoy/ensure.yaml",
    "nginx/guest-sessions.conf",
    "traefik/guest-sessions.yaml",
    "caddy/Caddyfile",
    "haproxy/haproxy.cfg",
    "apache/guest-sessions.conf",
    "kubernetes/gateway-api.yaml",
    "kubernetes/istio.yaml",
    "aws/README.md",
]


def documents(example: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / example).read_text(encoding="utf-8")))


def containers(example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents(example):
        if document["kind"] in {"Deployment", "StatefulSet"}:
            for container in document["spec"]["template"]["spec"]["containers"]:
                yield document["metadata"]["name"], container


@pytest.mark.parametrize("example", GATEWAYS)
def test_each_gateway_s_example_states_what_the_gateway_must_strip(example: str) -> None:
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    assert "must strip" in text


@pytest.mark.parametrize(
    "example",
    ["nginx/guest-sessions.conf", "traefik/guest-sessions.yaml", "aws/README.md"],
)
def test_each_example_without_patterns_names_all_identity_headers(example: str) -> None:
    text = (EXAMPLES / example).read_text(encoding="utf-8").lower()
    assert [name for name in ("id", "version", "new", "payload", "token") if f"x-guest-{name}" not in text] == []


@pytest.mark.parametrize("name", ["guest-sessions-keeper", "guest-sessions"])
def test_the_settings_for_kubernetes_are_taken(name: str, tmp_path: Path) -> None:
    [config] = [each["data"] for each in documents("kubernetes/guest-sessions.yaml") if each["kind"] == "ConfigMap"]
    container = dict(containers("kubernetes/guest-sessions.yaml"))[name]
    secrets = {"keys-secret": "A" * 43, "api-keys": "an-api-key-of-this-test"}
    for file, value in secrets.items():
        (tmp_path / file).write_text(value)
    variables = {**config, **{each["name"]: each["value"] for each in container["env"]}}
    mounted = {key: value.replace("/run/secrets/guest-sessions", str(tmp_path)) for key, value in variables.items()}

    settings = Settings.from_mapping(mounted)

    assert (settings.keys_dir is None) is (name == "guest-sessions")
    assert settings.port == container["ports"][0]["containerPort"]


def test_the_keyring_lies_on_the_keeper_s_volume_and_on_no_volume_of_the_image() -> None:
    """Beside a mount at another path containerd keeps the image's VOLUME apart, for one container's life."""
    keeper = dict(containers("kubernetes/guest-sessions.yaml"))["guest-sessions-keeper"]
    [mounted] = [each["mountPath"] for each in keeper["volumeMounts"] if each["name"] == "keys"]
    [keys_dir] = [each["value"] for each in keeper["env"] if each["name"] == "GUEST_KEYS_DIR"]
    dockerfile = (EXAMPLES.parent / "Dockerfile").read_text(encoding="utf-8")
    assert mounted == keys_dir
    assert re.findall(r'^VOLUME \["(.*)"\]$', dockerfile, re.MULTILINE) == [mounted]


def test_the_probes_for_kubernetes_ask_what_the_service_answers() -> None:
    probed = {
        container[f"{kind}Probe"]["httpGet"]["path"]
        for name, container in containers("kubernetes/guest-sessions.yaml")
        if not name.endswith("redis")
        for kind in ("startup", "readiness", "liveness")
    }
    assert probed == {"/healthz", "/readyz"}


def test_the_shop_s_merge_policy_is_taken() -> None:
    policies = parse_policy_file((EXAMPLES / "shop/policies.toml").read_bytes(), format="toml")
    assert set(policies) == {"shop"}
