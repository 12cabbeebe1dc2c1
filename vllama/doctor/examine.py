"""All checks, each with a deadline."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from vllama.doctor import configuration, engine, gpu, leftovers, machine, models, port
from vllama.doctor.finding import Check, Finding, problem
from vllama.errors import VllamaError
from vllama.settings import Settings


def examine(server_url: Callable[[Settings], str], *, deep: bool = False) -> Iterator[Finding]:
    """What is found, in order.

    server_url: where commands look for the server that the settings name. deep: also import vLLM, which takes its time.
    """
    settings, findings = configuration.read()
    yield from findings
    yield from run_checks(
        [
            Check("machine", lambda: machine.check(settings)),
            Check("disk", lambda: machine.check_disks(settings)),
            Check("GPU", lambda: gpu.check(settings)),
            Check("engine", lambda: engine.check(settings, deep=deep), engine.seconds(deep=deep)),
            Check("models", lambda: models.check(settings), 30.0),
            Check("leftovers", lambda: leftovers.check(settings)),
            Check("server", lambda: port.check(settings, server_url(settings))),
        ]
    )


def run_checks(checks: Sequence[Check]) -> Iterator[Finding]:
    """All at once. A thread that hangs, as in a driver or on a network's disk, is left behind."""
    began = time.monotonic()
    running = [(check, _Run(check)) for check in checks]
    for check, run in running:
        run.join(max(0.0, began + check.seconds - time.monotonic()))
        yield from run.findings


class _Run(threading.Thread):
    """findings: what there is until now."""

    def __init__(self, check: Check) -> None:
        super().__init__(name=f"check {check.name}", daemon=True)
        self._check = check
        self._found: list[Finding] = []
        self.start()

    def run(self) -> None:
        try:
            for finding in self._check.run():
                self._found.append(finding)
        except VllamaError as error:
            self._found.append(problem(self._check.name, error.message, error.advice or ""))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            self._found.append(problem(self._check.name, f"it could not be looked at ({said})", "report this"))

    @property
    def findings(self) -> list[Finding]:
        if not self.is_alive():
            return self._found
        late = problem(
            self._check.name,
            f"no answer within {self._check.seconds:.0f} s",
            "a driver, a disk or a network may hang: see whether `nvidia-smi` and `df` answer",
        )
        return [*self._found, late]
