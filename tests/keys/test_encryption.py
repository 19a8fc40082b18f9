import pytest
from cryptography.fernet import Fernet

from service.errors import KeyringDamaged, WrongSecret
from service.keys.encryption import Sealer, is_sealed, make_secret

OLD, NEW = make_secret(), make_secret()


def test_what_was_sealed_opens_to_what_it_was() -> None:
    sealed = Sealer([NEW]).seal(b"a ring")

    assert b"a ring" not in sealed
    assert Sealer([NEW]).open(sealed) == b"a ring"
    assert Fernet(NEW).decrypt(sealed) == b"a ring"


def test_the_first_secret_seals_and_any_opens() -> None:
    sealed_by_old = Sealer([OLD, NEW]).seal(b"a ring")
    sealed_by_new = Sealer([NEW, OLD]).seal(b"a ring")

    assert Sealer([NEW, OLD]).open(sealed_by_old) == b"a ring"
    assert Sealer([OLD, NEW]).is_current(sealed_by_old)
    assert not Sealer([NEW, OLD]).is_current(sealed_by_old)
    assert Sealer([NEW]).open(sealed_by_new) == b"a ring"


def test_a_wrong_secret_is_told_as_such() -> None:
    sealed = Sealer([OLD]).seal(b"a ring")

    with pytest.raises(WrongSecret, match="not among those given") as caught:
        Sealer([NEW]).open(sealed)
    assert caught.value.code == "wrong_secret"
    assert OLD not in str(caught.value)
    assert NEW not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"gAAAAA", b"\x00\xff", b"gAAAAABrBHOfnULHge1Hxm7NQBMUEBY9"])
def test_what_was_never_sealed_or_is_cut_off_is_damaged(content: bytes) -> None:
    assert not is_sealed(content)
    with pytest.raises(KeyringDamaged, match="not sealed, or were cut off"):
        Sealer([NEW]).open(content)


def test_altered_bytes_never_open() -> None:
    sealed = bytearray(Sealer([NEW]).seal(b"a ring"))
    sealed[40] = ord("A") if sealed[40] != ord("A") else ord("B")

    with pytest.raises(WrongSecret):
        Sealer([NEW]).open(bytes(sealed))


def test_sealed_bytes_that_were_cut_off_are_damaged() -> None:
    sealed = Sealer([NEW]).seal(b"a ring")

    for length in range(len(sealed)):
        with pytest.raises((KeyringDamaged, WrongSecret)):
            Sealer([NEW]).open(sealed[:length])
