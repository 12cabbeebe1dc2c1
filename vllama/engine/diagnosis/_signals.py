"""What it means that a signal ended the engine, or one of its processes."""

from vllama.engine.diagnosis._rule import Rule


def _killed_by(name: str, number: int) -> str:
    """The server's own end, or what vLLM says of the end of another process."""
    return rf"^was killed by {name}$|died unexpectedly \(exit code: -{number}\)|Failed core proc\(s\): {{.*: -{number}\b"


SIGNALS = (
    Rule(
        "killed",
        _killed_by("SIGKILL", 9),
        "one of its processes was killed by SIGKILL, as Linux does where the machine's memory runs out",
        "see `dmesg` for the OOM killer, then free RAM, or set --memory-limit or a smaller --max-model-len",
    ),
    Rule(
        "terminated",
        _killed_by("SIGTERM", 15),
        "somebody told one of its processes to end (SIGTERM)",
        "see what manages services or containers on this machine",
    ),
    Rule(
        "illegal-instruction",
        _killed_by("SIGILL", 4),
        "the processor does not know an instruction that vLLM was built with, or may not use it here (SIGILL)",
        "vLLM needs a processor with AVX2, and in a virtual machine one that passes the host's features on",
    ),
    Rule(
        "bus-error",
        _killed_by("SIGBUS", 7),
        "one of its processes found no room in shared memory, or could not read a file it had mapped (SIGBUS)",
        "enlarge /dev/shm (Docker: --shm-size=2g or --ipc=host), and check the disk that holds the weights",
    ),
)
