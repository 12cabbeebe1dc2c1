"""When an engine may be started again."""

from tests.each import each
from vllama.scheduling.attempts import Attempts


class At:
    """A clock that says what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@each(
    ("restarts", "now", "delay", "counted"),
    [
        ([], 0, 0, 0),
        ([0], 1, 5, 1),
        ([0, 10], 11, 20, 2),
        ([0, 10, 40], 41, None, 3),
        ([0, 10, 40], 599.9, None, 3),
        ([0, 10, 40], 600, 20, 2),
        ([0, 10, 40], 610, 5, 1),
        ([0, 10, 40], 640, 0, 0),
        ([0, 300, 599, 601], 602, None, 3),
    ],
)
def test_restarts(restarts: list[float], now: float, delay: float | None, counted: int) -> None:
    attempts = Attempts(clock := At())
    for clock.now in restarts:
        attempts.restarted()
    clock.now = now
    assert (attempts.delay, attempts.restarts) == (delay, counted)
    attempts.succeeded()
    assert attempts.restarts == counted


@each(("failures", "seconds"), [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (5000, 30)])
def test_how_long_a_failure_is_held(failures: int, seconds: float) -> None:
    attempts = Attempts(clock := At())
    for _ in range(failures):
        attempts.failed()
    clock.now = seconds - 0.01
    assert attempts.is_held is (failures > 0)
    clock.now = seconds
    assert not attempts.is_held


def test_a_success_ends_the_row() -> None:
    attempts = Attempts(clock := At())
    for _ in range(5):
        attempts.failed()
    attempts.succeeded()
    assert not attempts.is_held
    attempts.failed()
    clock.now = 1
    assert not attempts.is_held
