from service.keys.shared_memory import ROW_BYTES, SharedRings


def test_each_row_holds_the_last_ring_of_its_worker() -> None:
    rings = SharedRings(3)

    rings.write(2, b"long ago")
    rings.write(0, b"one")
    rings.write(2, b"two")

    assert list(rings) == [b"one", b"two"]


def test_a_ring_that_was_half_written_is_left_out() -> None:
    rings = SharedRings(2)
    rings.write(0, b"whole")
    rings.write(1, b"first")

    rings._memory[ROW_BYTES + 40 : ROW_BYTES + 43] = b"sec"  # a writer that was killed

    assert list(rings) == [b"whole"]


def test_a_ring_that_does_not_fit_leaves_the_one_before() -> None:
    rings = SharedRings(1)
    rings.write(0, b"fits")

    rings.write(0, bytes(ROW_BYTES))

    assert list(rings) == [b"fits"]
