"""What Envoy Gateway makes of the examples for the Gateway API.

In a cluster Envoy Gateway turns them into listeners, routes and clusters, which its Envoy asks for (xDS). Its command
`egctl` does the same without a cluster. What it makes is kept in `translated` as configuration files of Envoy, so that
Go and some minutes are needed only where an example has changed: `make gateway-api`.
"""

import copy
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EGCTL = "github.com/envoyproxy/gateway/cmd/egctl@v1.9.1"
EXAMPLES = Path(__file__).parents[2] / "examples/kubernetes"
OFFLINE, ENSURE, REPLICAS = "gateway-api.yaml", "gateway-api-ensure.yaml", "gateway-api-replicas.yaml"
NAMESPACE = "shop"
APP, SERVICE = "192.0.2.3", "192.0.2.8"  # of the network that documents use (RFC 5737)
PODS = ("192.0.2.10", "192.0.2.11")


@dataclass(frozen=True)
class Translation:
    """One configuration of Envoy: an example, with or without its option for preflights."""

    example: str
    preflights_pass: bool = False

    @property
    def path(self) -> Path:
        name = self.example.replace(".yaml", "-preflights.yaml") if self.preflights_pass else self.example
        return Path(__file__).parent / "translated" / name


TRANSLATIONS = [
    Translation(OFFLINE),
    Translation(OFFLINE, preflights_pass=True),
    Translation(ENSURE),
    Translation(ENSURE, preflights_pass=True),
    Translation(REPLICAS),
]


def _gateway(name: str, hostname: str) -> dict[str, Any]:
    # Without TLS: the tests speak plain HTTP.
    listener = {"name": "https", "protocol": "HTTP", "port": 8000, "hostname": hostname}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name},
        "spec": {"gatewayClassName": "envoy", "listeners": [listener]},
    }


def _service(name: str, address: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": port, "protocol": "TCP"}]},
    }


CLASS: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "GatewayClass",
    "metadata": {"name": "envoy"},
    "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
}
PUBLIC = [
    CLASS,
    _gateway("public", "shop.example"),
    _service("app", APP, 3000),
    _service("guest-sessions", SERVICE, 8080),
]
"""What the examples for visitors count on: a Gateway and two Services."""

INTERNAL = [
    CLASS,
    _gateway("internal", "guest-sessions.internal"),
    _service("guest-sessions", SERVICE, 8080),
]
"""What the example for replicas counts on: a Gateway and a Service."""


def fingerprint() -> str:
    """Of all that is translated, to show whether the translations are of the examples as they are."""
    parts = [EGCTL, *(part for each in TRANSLATIONS for part in parts_of(each))]
    return hashlib.sha256(yaml.safe_dump(parts).encode()).hexdigest()


def parts_of(translation: Translation) -> list[dict[str, Any]]:
    """All that an example consists of, and what it counts on.

    The example that ensures guests stands in place of the SecurityPolicy of the first.
    """
    if translation.example == REPLICAS:
        return [*INTERNAL, *_read(translation.example)]
    parts = _read(OFFLINE, preflights_pass=translation.preflights_pass)
    if translation.example == ENSURE:
        parts = [part for part in parts if part["kind"] != "SecurityPolicy"]
        parts += _read(ENSURE)
    return [*PUBLIC, *parts]


def _read(example: str, *, preflights_pass: bool = False) -> list[dict[str, Any]]:
    text = (EXAMPLES / example).read_text()
    if preflights_pass:
        text = with_option("cors", text)
    return list(yaml.safe_load_all(text))


def with_option(option: str, example: str) -> str:
    """The example with the lines of an option, as a reader un-comments them."""
    return re.sub(f"^#{option} ", "", example, flags=re.MULTILINE)


def translate(translation: Translation) -> str:
    """Envoy's configuration for the example, as YAML. Needs Go, which fetches and builds egctl."""
    go = shutil.which("go")
    if go is None:
        raise SystemExit("go is not installed here")
    parts = copy.deepcopy(parts_of(translation))
    for part in parts:
        part["metadata"]["namespace"] = NAMESPACE
    command = [go, "run", EGCTL, "x", "translate", "--to", "xds", "--file", "/dev/stdin"]
    done = subprocess.run(command, input=yaml.safe_dump_all(parts), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    [made] = yaml.safe_load(done.stdout)["xds"].values()
    configuration = static(made["configs"])
    if translation.example == REPLICAS:
        configuration = with_pods(configuration)
    return f"# By `make gateway-api`, of parts with the SHA-256\n# {fingerprint()}\n" + yaml.safe_dump(configuration)


def with_pods(configuration: dict[str, Any]) -> dict[str, Any]:
    """The same with the addresses of the pods, as in a cluster: egctl knows the Service's address alone."""
    configuration = copy.deepcopy(configuration)
    for cluster in configuration["staticResources"]["clusters"]:
        for locality in cluster["loadAssignment"]["endpoints"]:
            [of_service] = locality["lbEndpoints"]
            locality["lbEndpoints"] = []
            for pod in PODS:
                of_pod = copy.deepcopy(of_service)
                of_pod["endpoint"]["address"]["socketAddress"]["address"] = pod
                locality["lbEndpoints"].append(of_pod)
    return configuration


def static(dump: list[dict[str, Any]]) -> dict[str, Any]:
    """The listener that visitors reach, with its routes and clusters in it instead of asked for."""
    found = {part["@type"].rpartition(".")[2].removesuffix("ConfigDump"): part for part in dump}
    endpoints = {
        each["endpointConfig"]["clusterName"]: each["endpointConfig"]
        for each in found["Endpoints"]["dynamicEndpointConfigs"]
    }
    clusters = [each["cluster"] for each in found["Clusters"]["dynamicActiveClusters"]]
    [routes] = [each["routeConfig"] for each in found["Routes"]["dynamicRouteConfigs"]]
    [listener] = [
        each["activeState"]["listener"]
        for each in found["Listeners"]["dynamicListeners"]
        if each["activeState"]["listener"]["name"] == routes["name"]
    ]
    for cluster in clusters:
        asked_for = cluster.pop("edsClusterConfig", None)
        if asked_for:
            cluster["loadAssignment"] = endpoints[asked_for["serviceName"]]
            cluster["type"] = "STATIC"
    [connections] = [each["typedConfig"] for each in listener["defaultFilterChain"]["filters"]]
    del connections["rds"]
    connections["routeConfig"] = routes
    for message in (*clusters, *endpoints.values(), listener, routes):
        del message["@type"]  # implied by the place where it stands
    for logging in (listener, connections):
        del logging["accessLog"]
    return {"staticResources": {"clusters": clusters, "listeners": [listener]}}


if __name__ == "__main__":
    for each in TRANSLATIONS:
        each.path.write_text(translate(each))
