import pytest

from service.cli.doctor import settings_warnings
from service.config import Settings

PUBLIC = {"GUEST_HOST": "0.0.0.0", "GUEST_ALLOW_NO_API_KEYS": "1"}  # noqa: S104 - read, not bound


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"GUEST_ISSUER": "https://a.example/"}, "GUEST_ISSUER https://a.example/ ends with a slash"),
        ({"GUEST_ISSUER": "https://a.example,https://b.example/"}, "GUEST_ISSUER https://b.example/ ends with a slash"),
        ({"GUEST_ISSUER": "http://a.example"}, "GUEST_ISSUER is not https"),
        ({"GUEST_ISSUER": "http://127.0.0.1:8080", **PUBLIC}, "which verifiers on other machines cannot reach"),
        ({"GUEST_TLL": "60"}, "ignoring unknown settings: GUEST_TLL"),
    ],
    ids=["slash", "slash-of-the-second", "http", "loopback", "unknown"],
)
def test_settings_that_are_most_often_wrong_are_warned_of(given: dict[str, str], warning: str) -> None:
    [message] = settings_warnings(Settings.from_mapping(given))

    assert warning in message


def test_the_defaults_and_a_public_https_issuer_give_no_warning() -> None:
    for given in ({}, {"GUEST_ISSUER": "https://a.example", **PUBLIC}):
        assert list(settings_warnings(Settings.from_mapping(given))) == []
