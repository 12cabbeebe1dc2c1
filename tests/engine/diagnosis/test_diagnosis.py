"""What is made of an engine's log and exit status."""

import pytest

from tests.engine.diagnosis.cases import CASES, LOGS
from vllama.engine.diagnosis import RULES, diagnose
from vllama.engine.diagnosis._log import read_log


def lines_of(name):
    return (LOGS / f"{name}.log").read_text().splitlines()


@pytest.mark.parametrize("name", CASES)
def test_each_log_is_taken_by_its_rule(name):
    case = CASES[name]
    log = read_log(lines_of(name), case.status)
    assert next((rule.name for rule in RULES if rule.read(log)), None) == case.rule


@pytest.mark.parametrize("name", CASES)
def test_causes_and_advices_are_sentences(name):
    found = diagnose(lines_of(name), CASES[name].status)
    assert found.cause.startswith(CASES[name].cause)
    assert bool(found.advice) == (CASES[name].rule is not None)
    for text in (found.cause, found.advice):
        assert "\n" not in text
        assert "{" not in text
        assert not text.endswith(".")
        assert len(text) < 420


def test_every_rule_has_a_log_and_every_log_a_case():
    assert {rule.name for rule in RULES} == {case.rule for case in CASES.values()} - {None}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {path.stem for path in LOGS.iterdir()} == set(CASES)


def test_logs_name_nothing_of_the_machine_they_are_from():
    assert [path.name for path in LOGS.iterdir() if "/tmp/" in path.read_text() or "/root/" in path.read_text()] == []
