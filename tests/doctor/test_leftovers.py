"""Engines that outlived their server."""

import subprocess
import sys

from vllama.doctor import leftovers
from vllama.settings import Settings

GATEWAY = """
import sys
from pathlib import Path
from vllama.engine.leftovers import Records
Records(Path(sys.argv[1])).add(int(sys.argv[2]), "demo:latest")
"""


def test_what_a_crash_left(tmp_path):
    settings = Settings(home=tmp_path)
    assert [finding.level.value for finding in leftovers.check(settings)] == ["ok"]
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as engine:
        try:
            subprocess.run([sys.executable, "-c", GATEWAY, tmp_path, str(engine.pid)], check=True)
            (finding,) = leftovers.check(settings)
        finally:
            engine.kill()
    assert finding.level == "warning"
    assert finding.found == f"the engine of demo:latest outlived its server (processes {engine.pid})"
    assert finding.advice == f"the next `vllama serve` ends it, or `kill -9 {engine.pid}`"
