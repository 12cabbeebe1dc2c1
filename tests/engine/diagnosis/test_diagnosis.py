"""What is made of an engine's log and exit status: the rules, their logs, and their documentation.

`VLLAMA_WRITE_DOCS=1 uv run pytest tests/engine/diagnosis` writes docs/troubleshooting.md anew.
"""

import os

import pytest

from tests.engine.diagnosis.cases import CASES, LOGS
from tests.served import ROOT
from vllama.engine.diagnosis import RULES, diagnose
from vllama.engine.diagnosis._log import read_log

SIGNALS = (137, 143, 132, 135, 139)
DOCUMENT = ROOT / "docs" / "troubleshooting.md"
HEAD = """# Troubleshooting

When an engine does not start, or ends by itself, vLLama reads the end of its log and says the cause in one line, over
HTTP, on the terminal and in `vllama ps`, with what to do about it and the path of the log. These are the causes it
knows; names and numbers are examples. Of anything else it shows the words of the exception that came first, and the
log tells the rest. `vllama doctor` finds most of what is wrong with a machine before an engine does.

`python -m tests.engine.diagnosis.provoke` in a clone of the repository provokes many of them on the real engine.

| Cause | What to do |
|---|---|
"""


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


def test_every_rule_is_tried_and_every_log_has_a_case():
    tried = {case.rule for case in CASES.values()} - {None}
    by_status = {rule.name for rule in RULES for status in SIGNALS if rule.read(read_log([], status))}
    assert tried | by_status == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {path.stem for path in LOGS.iterdir()} == set(CASES)


def document():
    """A row for each rule, in the words that its log gets."""
    rows = {}
    for name, case in CASES.items():
        if case.rule is not None:
            found = diagnose(lines_of(name), case.status)
            rows.setdefault(case.rule, f"| {found.cause} | {found.advice} |")
    for status in SIGNALS:
        found = diagnose([], status)
        rows.setdefault(found.cause, f"| {found.cause} | {found.advice} |")
    return HEAD + "\n".join(dict.fromkeys(rows.values())) + "\n"


def test_every_rule_is_documented():
    if os.environ.get("VLLAMA_WRITE_DOCS"):
        DOCUMENT.write_text(document())
    assert DOCUMENT.read_text() == document()
