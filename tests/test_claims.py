from service import claims


def test_a_first_token_starts_its_lineage_at_version_1_with_its_time_rounded_down() -> None:
    made = claims.first(
        issuer="https://guests.example",
        subject="G-1",
        audience=(),
        ttl_s=60,
        token_id="t-1",
        payload={"cart": []},
        further={},
        now_s=1_700_000_000.999,
    )

    assert made.to_json() == {
        "iss": "https://guests.example",
        "sub": "G-1",
        "iat": 1_700_000_000,
        "exp": 1_700_000_060,
        "orig_iat": 1_700_000_000,
        "jti": "t-1",
        "ver": 1,
        "payload": {"cart": []},
    }
