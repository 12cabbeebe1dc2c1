"""What is made of an engine's log and exit status: the rules, their logs, and their documentation.

`VLLAMA_WRITE_DOCS=1 uv run pytest tests/engine/diagnosis` writes docs/troubleshooting.md anew.
"""

import os

from tests.each import each
from tests.engine.diagnosis.cases import CASES, LOGS
from tests.served import ROOT
from vllama.engine.diagnosis import RULES, diagnose
from vllama.engine.diagnosis._log import read_log

SIGNALS = (137, 143, 132, 135, 139)
DOCUMENT = ROOT / "docs" / "troubleshooting.md"
HEAD = """# Troubleshooting

When an engine does not start, or ends by itself, vLLama reads the end of its log and says the cause in one line, over
HTTP, on the terminal, in `vllama ps` and in the server's own log, with what to do about it and the path of the
engine's log, which `vllama logs MODEL` shows. `vllama doctor` finds most of what is wrong with a machine before an
engine does.

## An engine that ran

One that ended by itself, was killed or stopped, or neither answers nor works any more is noticed within two seconds;
one that works and does not answer, after a minute. It is ended with all its processes and, unless its `keep_alive` is
over, started again: at once, the second and third time within ten minutes after 5 and 20 seconds, after that only when
it is asked for. Requests that had got nothing are asked once more of the new engine; those in the middle of an answer
end with the cause. It is one of the table below, or one of these:

| Cause | What to do |
|---|---|
| its EngineCore died without a word | \
see `dmesg`, where Linux names what it killed for want of memory; free RAM, or set --memory-limit |
| it hung: process 4711 (EngineCore) was stopped (SIGSTOP) | \
see who stops processes here: a debugger, a freezer of containers, a person |
| it hung: it did not answer /health for 60 s | \
see the end of its log; less memory or fewer cores than it needs make an engine as slow |
| it hung: its processes did nothing for 60 s while 3 requests waited | \
see the end of its log; on several GPUs, what NCCL_DEBUG=INFO in the server's environment adds to it |
| its server stopped listening | see the end of its log |

## A server that refuses

`server busy, please try again` with status 503 is a bound on what is done at once. The server's log says which one,
and [under load](api.md#under-load) what to do about each. A setting that cannot be read ends the start with its name,
where it came from and what may be given; `vllama doctor` says it, too.

## Causes

These are the causes that are known; names and numbers are examples. Of anything else the words of the exception that
came first are shown, and the log tells the rest. `python -m tests.engine.diagnosis.provoke` in a clone of the
repository provokes many of them on the real engine.

| Cause | What to do |
|---|---|
"""


def lines_of(name):
    return (LOGS / f"{name}.log").read_text().splitlines()


@each("name", CASES)
def test_each_log_is_taken_by_its_rule(name):
    case = CASES[name]
    log = read_log(lines_of(name), case.status)
    assert next((rule.name for rule in RULES if rule.read(log)), None) == case.rule


@each("name", CASES)
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
