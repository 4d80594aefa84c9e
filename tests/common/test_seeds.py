from nas.common.seeds import seed_from


def test_seeds_depend_on_every_part_and_never_change() -> None:
    assert seed_from(0, "ask", 3) == seed_from(0, "ask", 3)
    assert len({seed_from(0, "ask", 3), seed_from(1, "ask", 3), seed_from(0, "tell", 3), seed_from(0, "ask", 4)}) == 4
    assert [seed_from(0), seed_from(7, "strategy", "evolution"), seed_from(7, "inherited", 1, 2)] == [
        2968811710,
        1273535075,
        2408335630,
    ]
