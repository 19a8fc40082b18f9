import pytest

from service.keys.redis_store import parse_redis_url


@pytest.mark.parametrize(
    ("text", "shown", "options"),
    [
        ("redis://cache", "single cache:6379", {"db": 0}),
        (
            "redis://user:p%40ss:word@cache:7000/3",
            "single cache:7000",
            {"db": 3, "username": "user", "password": "p@ss:word"},
        ),
        ("redis://:only@[::1]:7000?db=2", "single [::1]:7000", {"db": 2, "password": "only"}),
        (
            "rediss://cache?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_check_hostname=false",
            "single cache:6379",
            {
                "db": 0,
                "ssl": True,
                "ssl_ca_certs": "/etc/ca.pem",
                "ssl_certfile": "/c.pem",
                "ssl_keyfile": "/k.pem",
                "ssl_check_hostname": False,
            },
        ),
        ("unix:///run/redis%20x.sock?db=1", "single /run/redis x.sock", {"db": 1}),
        ("unix://u:p@/run/redis.sock", "single /run/redis.sock", {"db": 0, "username": "u", "password": "p"}),
        (
            "redis+sentinel://u:p@h1,h2:1234/main/4?sentinel_username=su&sentinel_password=sp",
            "sentinel h1:26379,h2:1234 main",
            {"db": 4, "username": "u", "password": "p", "sentinel_username": "su", "sentinel_password": "sp"},
        ),
        ("rediss+sentinel://h1/main?db=5", "sentinel h1:26379 main", {"db": 5, "ssl": True}),
        ("redis+cluster://h1,h2:1", "cluster h1:6379,h2:1", {"db": 0}),
        ("rediss+cluster://h1", "cluster h1:6379", {"db": 0, "ssl": True}),
    ],
)
def test_each_form_names_its_place(text: str, shown: str, options: dict[str, object]) -> None:
    address = parse_redis_url(text)

    assert (str(address), address.options) == (shown, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must start with one of: redis://"),
        ("http://cache", "must start with one of"),
        ("redis://", "must name a host"),
        ("redis://a,b", "must name one host"),
        ("redis://cache:99999", "port that is not understood"),
        ("redis://cache:port", "port that is not understood"),
        ("redis://cache/x", "database that is not a number"),
        ("redis://cache/1/2", "at most one database"),
        ("redis://cache/1?db=2", "at most one database"),
        ("redis://cache?timeout=5", "unknown option; redis:// takes db"),
        ("redis://cache?ssl_ca_certs=/ca", "unknown option"),
        ("redis://cache?db", "NAME=VALUE"),
        ("redis://:pass#word@cache", "must not have a #"),
        ("rediss://cache?ssl_check_hostname=maybe", "neither true nor false"),
        ("unix://run/redis.sock", "full path"),
        ("unix://", "full path"),
        ("redis+sentinel://h1", "must name the master"),
        ("redis+cluster://h1/1", "only number 0"),
    ],
)
def test_any_other_form_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_redis_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "redis://hunter2@",
        "redis://:hunter2@a,b",
        "redis://:hunter2@a:x",
        "re://:hunter2@a",
        "redis://:x[hunter2]y@a",
        "redis://:x\uff1ahunter2@a",
        "redis://:x?hunter2=y@a",
        "redis://:x/hunter2@a",
        "redis://a:hunter2",
        "redis://a/hunter2",
        "redis://a?hunter2",
    ],
)
def test_no_message_repeats_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has|is)") as caught:
        parse_redis_url(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_address_shows_without_its_secrets() -> None:
    address = parse_redis_url("redis+sentinel://u:hunter2@h1,h2/main?sentinel_password=hunter3")

    assert repr(address) == "RedisAddress(sentinel h1:26379,h2:26379 main)"
