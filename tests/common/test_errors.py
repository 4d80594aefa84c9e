from nas.common.errors import ConfigError


def test_of_many_problems_fifty_are_listed_and_the_others_counted() -> None:
    problems = [f"key{number}: unknown key" for number in range(1_065)]
    heading, *lines, last = str(ConfigError("search.yaml", problems)).splitlines()
    assert heading == "search.yaml: 1065 problems"
    assert lines == [f"  - {problem}" for problem in problems[:50]]
    assert last == "  and 1,015 more"  # no problem of its own
    assert str(ConfigError("search.yaml", problems[:1])) == "search.yaml: 1 problem\n  - key0: unknown key"
