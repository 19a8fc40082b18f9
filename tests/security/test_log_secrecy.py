"""That the sieve which every test runs under would notice (see `nothing_secret_is_logged` in conftest)."""

import logging

import pytest

from tests.api import Api
from tests.conftest import MakeApi
from tests.log_sieve import keep_out, sifting
from tests.security.forge import forge


@pytest.mark.parametrize(
    "secret",
    [
        forge().token(),
        f"Bearer {forge().token()}",
        str(forge().active.jwk),
        f'{{"keys": [{{"d": "{forge().active.jwk["d"]}"}}]}}',
        "gAAAAABmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm==",
        "an-api-key-that-a-test-knows",
    ],
    ids=["token", "header", "key", "keyring", "sealed ring", "API key"],
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_a_secret_in_a_message_an_extra_or_a_traceback_is_noticed(secret: str, level: int) -> None:
    keep_out("an-api-key-that-a-test-knows")
    logger = logging.getLogger("guest_sessions.test.sieve")
    logger.propagate = False  # these are leaks on purpose, which the sieve of the suite shall not see
    noticed = []
    for name in ("message", "extra", "traceback"):
        with sifting() as sieve:
            logger.addHandler(sieve)
            logger.setLevel(logging.DEBUG)
            if name == "message":
                logger.log(level, "got %s", secret)
            elif name == "extra":
                logger.log(level, "got it", extra={"header": secret})
            else:
                try:
                    raise ValueError(secret)  # noqa: TRY301 - a traceback is needed
                except ValueError:
                    logger.log(level, "failed", exc_info=True)
            logger.removeHandler(sieve)
        noticed.append(bool(sieve.leaked))

    assert noticed == [True, True, True]


async def test_a_failure_with_secrets_in_hand_logs_none_of_them(make_api: MakeApi) -> None:
    api: Api = await make_api(GUEST_API_KEYS="k" * 20, GUEST_LOG_LEVEL="debug")
    key = {"Authorization": "Bearer " + "k" * 20}
    token = (await api.post("/v1/issue", {}, headers=key)).json["token"]

    for path in ("/v1/verify", "/v1/refresh-payload", "/v1/merge", f"/v1/auth/{token}", f"/docs/{token}", f"/{token}"):
        for body in ({"token": token}, {"tokens": [token], "strict": True}, {"token": token[:-4], token: token}):
            assert (await api.session.post(api.base_url + path, json=body, headers=key)).status < 500
