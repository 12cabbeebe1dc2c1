"""Tables of cases as one test."""

import inspect

import pytest

from tests.each import each


def test_all_cases_run_and_those_that_fail_are_named() -> None:
    seen = []

    @each(("a", "b"), [(1, 2), (3, 3), (5, 6)])
    def table(a: int, b: int) -> None:
        seen.append((a, b))
        assert a == b

    with pytest.raises(ExceptionGroup) as raised:
        table()
    assert seen == [(1, 2), (3, 3), (5, 6)]
    assert [error.__notes__ for error in raised.value.exceptions] == [["with a=1, b=2"], ["with a=5, b=6"]]


def test_what_is_to_end_a_test_ends_it() -> None:
    @each("reason", ["too slow"])
    def table(reason: str) -> None:
        pytest.fail(reason)

    with pytest.raises(pytest.fail.Exception, match="too slow") as raised:
        table()
    assert raised.value.__notes__ == ["with reason='too slow'"]


async def test_tables_of_tables_with_fixtures() -> None:
    seen = []

    @each("a", [1, 2])
    @each("b", "xy")
    async def table(a: int, fixture: str, b: str) -> None:
        seen.append((a, b, fixture))

    assert list(inspect.signature(table).parameters) == ["fixture"]
    await table(fixture="f")
    assert seen == [(1, "x", "f"), (1, "y", "f"), (2, "x", "f"), (2, "y", "f")]
