"""Prints what is installed beside the interpreter that runs this, as JSON. It imports none of it but `packaging`.

versions: by name. cuda: the CUDA that torch was built for. odds: requirements that are not met, each the
package that is required, and a text.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path


def odds(versions: dict[str, str]) -> Iterator[tuple[str, str]]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    known = {canonicalize_name(name): version for name, version in versions.items()}
    for distribution in importlib.metadata.distributions():
        for line in distribution.requires or ():
            with contextlib.suppress(InvalidRequirement):
                wanted = Requirement(line)
                there = known.get(canonicalize_name(wanted.name))
                if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                    continue
                if there is None or not wanted.specifier.contains(there, prereleases=True):
                    is_there = "it is not there" if there is None else f"it is {there}"
                    needs = f"{distribution.metadata['Name']} needs {wanted.name}{wanted.specifier}"
                    yield wanted.name, f"{needs}, {is_there}"


def cuda() -> str | None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text()
    match = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def main() -> None:
    versions = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    print(json.dumps({"versions": versions, "cuda": cuda(), "odds": sorted(set(odds(versions)))}))


if __name__ == "__main__":
    main()
