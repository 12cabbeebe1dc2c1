"""Checks that hang or fail."""

import threading

from vllama.doctor.examine import run_checks
from vllama.doctor.finding import Check, ok, problem
from vllama.errors import ConfigError


def test_all_are_told_whatever_one_does():
    never = threading.Event()

    def hangs():
        yield ok("one", "so far")
        never.wait()

    def fails():
        raise RuntimeError("boom")

    def refuses():
        yield ok("three", "fine")
        raise ConfigError("the disk is full", "make room")

    checks = [Check("one", hangs, 0.05), Check("two", fails), Check("three", refuses), Check("four", list)]
    try:
        one, late, *others = run_checks(checks)
    finally:
        never.set()
    assert one == ok("one", "so far")
    assert (late.level, late.found) == ("problem", "no answer within 0 s")
    assert others == [
        problem("two", "it could not be looked at (RuntimeError: boom)", "report this"),
        ok("three", "fine"),
        problem("three", "the disk is full", "make room"),
    ]
