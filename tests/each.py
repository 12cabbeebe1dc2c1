"""Tables of cases as one test, where a test for each would take far longer to set up than to run."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

_Parameters = type(pytest.param())
Test = Callable[..., Any]


def each(names: str | Sequence[str], values: Iterable[Any]) -> Callable[[Test], Test]:
    """`pytest.mark.parametrize`, but all cases are one test, which shows each that fails. They share its fixtures."""
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [dict(zip(keys, _parameters(value, len(keys)), strict=True)) for value in values]

    def decorate(test: Test) -> Test:
        def run(**fixtures: Any) -> None:
            failures: list[Exception] = []
            for case in cases:
                with _noted(case, failures):
                    test(**fixtures, **case)
            _raise_all(failures)

        async def run_async(**fixtures: Any) -> None:
            failures: list[Exception] = []
            for case in cases:
                with _noted(case, failures):
                    await test(**fixtures, **case)
            _raise_all(failures)

        signature = inspect.signature(test)
        fixtures = [parameter for name, parameter in signature.parameters.items() if name not in keys]
        whole = functools.wraps(test)(run_async if inspect.iscoroutinefunction(test) else run)
        whole.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return whole

    return decorate


def _parameters(value: Any, number: int) -> Sequence[Any]:
    if isinstance(value, _Parameters):
        return value.values
    return value if number > 1 else [value]


@contextlib.contextmanager
def _noted(case: dict[str, Any], failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {', '.join(f'{name}={value!r}' for name, value in case.items())}")
        if not isinstance(error, Exception):  # pytest's own, of which a timeout is one
            raise
        failures.append(error)


def _raise_all(failures: list[Exception]) -> None:
    if failures:
        raise ExceptionGroup("not all cases pass", failures)
