"""`python -m vllama_engine flags|serve|standby|merge`: see the README beside the package."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(given: Sequence[str] | None = None) -> int:
    """Run a command; its exit status. given: its arguments, those of the process where None."""
    parser = argparse.ArgumentParser(prog="vllama_engine")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("flags", help="print vLLM's command-line flags as JSON")
    serve = commands.add_parser("serve", help="run vLLM's OpenAI server under a guard")
    serve.add_argument("--guard-fd", type=int, required=True, help="the engine is killed when this descriptor closes")
    serve.add_argument("--spare-core", action="store_true", help="leave one CPU core to everything else")
    serve.add_argument("vllm_args", nargs="*", help="vLLM's own arguments, after --")
    standby = commands.add_parser("standby", help="import vLLM, and fork servers when asked")
    standby.add_argument("--control-fd", type=int, required=True, help="the socket over which it is asked")
    merge = commands.add_parser("merge", help="add an adapter to its base model's weights")
    for name in ("--adapter", "--base", "--output"):
        merge.add_argument(name, type=Path, required=True, help="a folder")
    arguments = parser.parse_args(given)
    # Each command imports only what it needs: the guard stays a few megabytes small.
    if arguments.command == "flags":
        from vllama_engine.flags import print_flags

        return print_flags()
    if arguments.command == "merge":
        from vllama_engine.merge import run_merge

        return run_merge(arguments.adapter, arguments.base, arguments.output)
    if arguments.command == "standby":
        from vllama_engine.standby import run_standby

        return run_standby(arguments.control_fd, main)
    from vllama_engine.guard import run_guarded
    from vllama_engine.server import run_server

    return run_guarded(arguments.guard_fd, lambda: run_server(arguments.vllm_args, arguments.spare_core))


# vLLM spawns workers that import this module again, under another name.
if __name__ == "__main__":
    sys.exit(main())
