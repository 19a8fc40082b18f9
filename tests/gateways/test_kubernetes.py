"""What can be seen of the Kubernetes examples without a cluster: that their parts name each other rightly."""

from typing import Any

import pytest
import yaml

from tests.gateways import gateway_api
from tests.gateways.gateways import EXAMPLES
from tests.gateways.test_asking import QUESTION


def documents(name: str, *, preflights_pass: bool = False) -> list[dict[str, Any]]:
    text = (EXAMPLES / "kubernetes" / name).read_text()
    return list(yaml.safe_load_all(gateway_api.with_option("cors", text) if preflights_pass else text))


def named(kind: str, name: str) -> dict[str, Any]:
    [spec] = [
        each["spec"]
        for each in gateway_api.parts_of(gateway_api.Translation(gateway_api.ENSURE))
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return dict(spec)


def test_every_file_is_a_list_of_objects_that_have_a_kind_and_a_name() -> None:
    for path in (EXAMPLES / "kubernetes").glob("*.yaml"):
        for each in documents(path.name):
            assert each["apiVersion"]
            assert each["kind"]
            assert each["metadata"]["name"]


@pytest.mark.parametrize("translation", gateway_api.TRANSLATIONS, ids=lambda each: each.path.stem)
def test_the_translations_are_of_the_examples_as_they_are(translation: gateway_api.Translation) -> None:
    assert gateway_api.fingerprint() in translation.path.read_text(), "make gateway-api"


@pytest.mark.parametrize("name", ["istio.yaml", "istio-ensure.yaml"])
def test_istio_lets_preflights_through_and_denies_all_else(name: str) -> None:
    [before] = [each["spec"] for each in documents(name) if each["metadata"]["name"] == "guest-for-account"]
    options = [each["spec"] for each in documents(name, preflights_pass=True) if each["kind"] == "AuthorizationPolicy"]
    [after] = [each for each in options if each["action"] == "DENY"]
    [denied] = before["rules"]
    others, no_preflight = after["rules"]
    assert denied["to"] == [{"operation": {"paths": ["/account*"]}}]
    assert others == denied | {"to": [{"operation": {"paths": ["/account*"], "notMethods": ["OPTIONS"]}}]}
    method = {"key": "request.headers[access-control-request-method]", "notValues": ["*"]}
    assert no_preflight == denied | {
        "to": [{"operation": {"paths": ["/account*"], "methods": ["OPTIONS"]}}],
        "when": [*denied.get("when", []), method],
    }


def test_the_gateway_tells_the_service_all_that_it_judges_by() -> None:
    external = named("SecurityPolicy", "guest-ensure")["extAuth"]
    assert set(external["headersToExtAuth"]) == {*QUESTION, "x-forwarded-for"}
    assert external["http"]["path"] == "/v1/auth?mode=ensure&for="


def test_the_patch_finds_the_filter_of_the_policy_that_ensures_a_guest() -> None:
    [patch] = named("EnvoyPatchPolicy", "guest-cookie")["jsonPatches"]
    namespace, gateway, _listener = patch["name"].split("/")
    assert gateway == named("ClientTrafficPolicy", "strip-identity")["targetRefs"][0]["name"]
    assert f"ext_authz/securitypolicy/{namespace}/guest-ensure'" in patch["operation"]["jsonPath"]
    assert patch["operation"]["path"] == "/allowed_client_headers_on_success"
    assert patch["operation"]["value"] == {"patterns": [{"exact": "set-cookie"}]}
