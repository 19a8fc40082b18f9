import pytest

from service.strict_json import canonical, equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0, -0.0),
        (10**19, 1e19),
        (2**63, 2.0**63),
        (1e308, 1e308),
        ({"a": [1e308]}, {"a": [1e308]}),
        (1, True),
        (1e19, 2e19),
        (2.0**64, 2.0**65),
        ("1", 1),
    ],
)
def test_two_values_share_a_text_if_and_only_if_they_are_equal(one: object, other: object) -> None:
    assert (canonical(one) == canonical(other)) is equal(one, other)


def test_a_number_is_written_in_a_few_digits() -> None:
    assert len(canonical(1e308)) < 25
