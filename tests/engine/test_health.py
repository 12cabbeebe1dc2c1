"""When an engine counts as lost: what is seen of it, look by look."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.each import each
from vllama.engine import health as health_module
from vllama.engine.client import Health
from vllama.engine.health import PATIENCE_S, PROBE_S, REST_S, Fault, Judge, Look
from vllama.engine.kin import Process

GOOD, DEAD, REFUSED, SILENT = Health.GOOD, Health.DEAD, Health.REFUSED, Health.SILENT


SERVER = Process(11, "python3", "S", parent=10, session=10, ticks=500, started=1)
CORE = Process(12, "VLLM::EngineCor", "S", parent=11, session=10, ticks=500, started=1)


@dataclass
class Engine:
    """What a judge is shown of an engine. ticks: what each of its processes uses from look to look."""

    judge: Judge = field(default_factory=Judge)
    now: float = 100.0
    core: Process = CORE
    answered: int = 0

    def see(
        self, health: Health = GOOD, *, ticks: int = 0, state: str = "S", took: float | None = None, waiting: int = 0
    ) -> Fault | None:
        took = (PROBE_S if health is SILENT else 0.01) if took is None else took
        self.core = self.core._replace(ticks=self.core.ticks + ticks, state=state)
        began, self.now = self.now, self.now + took
        look = Look(began, self.now, health, (SERVER, self.core), waiting, self.answered)
        self.now += 0 if health is SILENT else REST_S
        return self.judge.see(look)

    def see_all(self, looks: Sequence[Health], **what: object) -> list[str]:
        faults = [self.see(look, **what) for look in looks]  # type: ignore[arg-type]
        return [fault.text if fault else "" for fault in faults]


HUNG = "it hung: it did not answer /health for 1.5 s and did nothing meanwhile"
STOPPED = "it hung: process 12 (EngineCor) was stopped (SIGSTOP)"


@each(
    ("looks", "fault"),
    [
        ([GOOD, GOOD, GOOD], ""),
        ([GOOD, SILENT, SILENT, SILENT], HUNG),
        ([GOOD, SILENT, SILENT, GOOD, SILENT, SILENT], ""),
        ([GOOD, DEAD], health_module._DIED),
        ([GOOD, REFUSED, GOOD, REFUSED], ""),
        ([GOOD, REFUSED, REFUSED], "its server stopped listening"),
    ],
)
def test_what_an_idle_engine_answers(looks: list[Health], fault: str) -> None:
    *before, last = Engine().see_all(looks)
    assert (set(before) <= {""}, last) == (True, fault)


def test_a_hang_is_noticed_within_two_seconds() -> None:
    engine = Engine()
    engine.see()
    began = engine.now - REST_S  # it falls silent as soon as it has answered
    while engine.see(SILENT) is None:
        pass
    assert engine.now - began < 1.9


def test_a_stopped_process_is_seen_twice_though_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "title", lambda process: process.name.removeprefix("VLLM::"))
    assert Engine().see_all([GOOD, GOOD], state="T") == ["", STOPPED]
    engine = Engine()
    seen = [engine.see(state=state) for state in "TSTST"]
    assert seen == [None] * 5, "somebody stops it again and again, for a moment each time"


@pytest.mark.parametrize("sign", [{"ticks": 40}, {"state": "R"}, {"state": "D"}])
def test_a_busy_engine_is_given_time(sign: dict[str, object]) -> None:
    engine = Engine()
    engine.see()
    looks = int(PATIENCE_S / PROBE_S)
    *patient, last = engine.see_all([SILENT] * looks, **sign)
    assert set(patient) == {""}
    assert last == "it hung: it did not answer /health for 60 s"
    assert engine.judge.is_overdue


def test_it_is_overdue_until_it_answers() -> None:
    engine = Engine()
    overdue = []
    for look in (GOOD, SILENT, SILENT, SILENT, GOOD):
        engine.see(look, ticks=40)
        overdue.append(engine.judge.is_overdue)
    assert overdue == [False, False, False, True, False]


def test_what_falls_still_after_work_is_hung() -> None:
    engine = Engine()
    engine.see()
    assert engine.see_all([SILENT] * 4, ticks=40) == [""] * 4
    text = "it hung: it did not answer /health for 3.5 s and did nothing meanwhile"
    assert engine.see_all([SILENT] * 3) == ["", "", text]


def test_a_gateway_that_was_late_blames_nobody() -> None:
    """It was suspended, or its own event loop stood still: nothing that was seen so far counts."""
    engine = Engine()
    engine.see()
    assert engine.see_all([SILENT, SILENT]) == ["", ""]
    assert engine.see(SILENT, took=30.0) is None
    assert engine.see_all([SILENT, SILENT]) == ["", ""]
    assert engine.see(GOOD) is None
    assert [engine.see(state="T"), engine.see(state="T", took=5.0), engine.see(state="T")] == [None] * 3


def idle(engine: Engine, seconds: float, **what: object) -> Fault | None:
    fault = None
    until = engine.now + seconds
    while engine.now < until and fault is None:
        fault = engine.see(waiting=what.get("waiting", 2), ticks=what.get("ticks", 0))  # type: ignore[arg-type]
    return fault


def test_an_engine_that_does_nothing_for_those_who_wait() -> None:
    engine = Engine()
    fault = idle(engine, 100.0)
    assert fault is not None
    assert fault.text == "it hung: its processes did nothing for 60 s while 2 requests waited"
    assert engine.now - 100.0 < PATIENCE_S + 2


@pytest.mark.parametrize("what", [{"waiting": 0}, {"ticks": 2}], ids=["nobody waits", "it works a little"])
def test_an_engine_that_has_nothing_to_do(what: dict[str, object]) -> None:
    assert idle(Engine(), 3 * PATIENCE_S, **what) is None


def test_an_answer_shows_that_it_works() -> None:
    engine = Engine()
    for _ in range(4):
        assert idle(engine, 50.0) is None
        engine.answered += 1


def test_processes_that_are_no_engines_do_not_count_as_idle() -> None:
    assert idle(Engine(core=SERVER), 3 * PATIENCE_S) is None


def test_a_look_says_when_it_was_late() -> None:
    look = Look(1.0, 1.5, SILENT)
    assert not look.says_nothing
    assert replace(look, ended=2.0).says_nothing
    assert replace(look, health=Health.UNKNOWN).says_nothing, "the gateway has too many files open"
