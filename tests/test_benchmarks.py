"""What the benchmarks conclude from what they see."""

from typing import Any

import pytest

from benchmarks._clients import DIALECTS, Fate, Request, judge
from benchmarks._measuring import seconds, table
from benchmarks.churn import growth, report
from tests.each import each

OLLAMA, OPENAI, ANTHROPIC = DIALECTS
DONE = 'data: {"choices":[{"delta":{},"finish_reason":"length"}]}'
STOP = 'data: {"type":"message_stop"}'


@each(
    ("path", "status", "lines", "fate"),
    [
        (OLLAMA, 200, ['{"message":{"content":"a"}}', '{"done":true}'], Fate.COMPLETE),
        (OLLAMA, 200, ['{"message":{"content":"a"}}'], Fate.BROKEN),
        (OLLAMA, 200, ['{"message":{"content":"a"}}', '{"error":"the engine ended"}'], Fate.ERROR),
        (OLLAMA, 200, ['{"message":{"cont'], Fate.BROKEN),
        (OLLAMA, 200, [], Fate.BROKEN),
        (OLLAMA, 503, ['{"error":"the engine ended"}'], Fate.ERROR),
        (OLLAMA, 502, ["<html>"], Fate.BROKEN),
        (OPENAI, 200, [DONE, "data: [DONE]"], Fate.COMPLETE),
        (OPENAI, 200, [DONE], Fate.BROKEN),
        (OPENAI, 200, ["data: [DONE]"], Fate.BROKEN),
        (OPENAI, 200, ['data: {"error":{"message":"ended"}}', "data: [DONE]"], Fate.ERROR),
        (OPENAI, 500, ['{"error":{"message":"ended"}}'], Fate.ERROR),
        (OPENAI, 500, ['{"message":"ended"}'], Fate.BROKEN),
        (ANTHROPIC, 200, ["event: message_stop", STOP], Fate.COMPLETE),
        (ANTHROPIC, 200, ['data: {"type":"message_start"}'], Fate.BROKEN),
        (ANTHROPIC, 200, ['data: {"type":"error","error":{"message":"ended"}}'], Fate.ERROR),
    ],
)
def test_what_an_answer_came_to(path: str, status: int, lines: list[str], fate: Fate) -> None:
    assert judge(path, status, lines)[0] is fate


@pytest.mark.parametrize(
    ("fate", "began", "first", "seen"),
    [
        (Fate.COMPLETE, 1.0, 3.0, Fate.RETRIED),
        (Fate.COMPLETE, 1.0, 1.5, Fate.COMPLETE),
        (Fate.COMPLETE, 2.5, 3.0, Fate.COMPLETE),
        (Fate.ERROR, 1.0, 3.0, Fate.ERROR),
    ],
)
def test_a_whole_answer_that_began_only_after_a_kill_was_retried(
    fate: Fate, began: float, first: float, seen: Fate
) -> None:
    assert Request(0, OLLAMA, began, first, 4.0, fate).fate_at(2.0) is seen


def counts(**series: list[float]) -> list[tuple[int, dict[str, float]]]:
    rows = zip(*series.values(), strict=True)
    return [(10 * (at + 1), dict(zip(series, values, strict=True))) for at, values in enumerate(rows)]


def test_growth_is_by_load() -> None:
    found = growth(counts(processes=[4, 4, 4, 4], files=[1, 11, 21, 31], fds=[9, 8, 9, 8]))
    assert found["processes"] == 0
    assert found["files"] == pytest.approx(1.0)
    assert abs(found["fds"]) < 0.05


@pytest.mark.parametrize(("files", "status"), [([1, 1, 1], 0), ([3, 1, 1], 0), ([1, 1, 2], 1)])
def test_growth_is_the_exit_status(files: list[float], status: int, capsys: pytest.CaptureFixture[Any]) -> None:
    assert report(counts(files=files), [1.0, 2.0], None) == status
    assert ("files grew by" in capsys.readouterr().out) is bool(status)


def test_tables() -> None:
    assert table(["a", "bb"], [[1, "x"]]) == "| a   | bb  |\n| --- | --- |\n| 1   | x   |"
    assert (seconds([3.0, 1.0, 2.0]), seconds([])) == ("2.0 s (1.0 to 3.0)", "-")
