"""What Envoy Gateway makes of the examples for the Gateway API.

In a cluster Envoy Gateway turns them into listeners, routes and clusters, which its Envoy asks for (xDS). Its command
`egctl` does the same without a cluster. What it makes is kept in `translated` as configuration files of Envoy, so that
Go and some minutes are needed only where an example has changed: `make gateway-api`.
"""

import copy
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

EGCTL = "github.com/envoyproxy/gateway/cmd/egctl@v1.9.1"
EXAMPLES = Path(__file__).parents[2] / "examples/kubernetes"
OFFLINE, ENSURE = "gateway-api.yaml", "gateway-api-ensure.yaml"
NAMESPACE = "shop"
APP, SERVICE = "192.0.2.3", "192.0.2.8"  # of the network that documents use (RFC 5737)

CLUSTER: list[dict[str, Any]] = [
    {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "envoy"},
        "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
    },
    {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "public"},
        # Without TLS: the tests speak plain HTTP.
        "spec": {
            "gatewayClassName": "envoy",
            "listeners": [{"name": "https", "protocol": "HTTP", "port": 8000, "hostname": "shop.example"}],
        },
    },
    *(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"clusterIP": address, "ports": [{"name": "http", "port": port, "protocol": "TCP"}]},
        }
        for name, address, port in (("app", APP, 3000), ("guest-sessions", SERVICE, 8080))
    ),
]
"""What the examples count on: a Gateway and two Services."""


def translated(example: str) -> Path:
    """Where the translation of an example is kept."""
    return Path(__file__).parent / "translated" / example


def fingerprint() -> str:
    """Of all that is translated, to tell whether the translations are of it as it is."""
    parts = [EGCTL, *CLUSTER, *parts_of(OFFLINE), *parts_of(ENSURE)]
    return hashlib.sha256(yaml.safe_dump(parts).encode()).hexdigest()


def parts_of(example: str) -> list[dict[str, Any]]:
    """All that an example consists of: the other one stands in place of the SecurityPolicy of the first."""
    parts = list(yaml.safe_load_all((EXAMPLES / OFFLINE).read_text()))
    if example == ENSURE:
        parts = [part for part in parts if part["kind"] != "SecurityPolicy"]
        parts += yaml.safe_load_all((EXAMPLES / ENSURE).read_text())
    return parts


def translate(example: str) -> str:
    """Envoy's configuration for the example, as YAML. Needs Go, which fetches and builds egctl."""
    go = shutil.which("go")
    if go is None:
        raise SystemExit("go is not installed here")
    parts = copy.deepcopy([*CLUSTER, *parts_of(example)])
    for part in parts:
        part["metadata"]["namespace"] = NAMESPACE
    command = [go, "run", EGCTL, "x", "translate", "--to", "xds", "--file", "/dev/stdin"]
    done = subprocess.run(command, input=yaml.safe_dump_all(parts), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    [made] = yaml.safe_load(done.stdout)["xds"].values()
    return f"# By `make gateway-api`, of parts with the SHA-256\n# {fingerprint()}\n" + yaml.safe_dump(
        static(made["configs"])
    )


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
        del message["@type"]  # told by the place where it stands
    for logging in (listener, connections):
        del logging["accessLog"]
    return {"staticResources": {"clusters": clusters, "listeners": [listener]}}


if __name__ == "__main__":
    for each in (OFFLINE, ENSURE):
        translated(each).write_text(translate(each))
