"""What it means that a signal ended the engine, or one of its processes."""

from vllama.engine.diagnosis._rule import Rule


def _killed_by(name: str, number: int) -> str:
    """The server's own end, or what vLLM says of the end of another process."""
    told = rf"died unexpectedly \(exit code: -{number}\)|Failed core proc\(s\): {{.*: -{number}\b"
    return rf"^was killed by {name}$|{told}"


SIGNALS = (
    Rule(
        "killed",
        _killed_by("SIGKILL", 9),
        "a process of it was killed (SIGKILL), as Linux does where the machine's memory runs out",
        "see `dmesg`, where Linux names what it killed; then free RAM, or set --memory-limit",
    ),
    Rule(
        "terminated",
        _killed_by("SIGTERM", 15),
        "somebody told a process of it to end (SIGTERM)",
        "see what manages services or containers on this machine",
    ),
    Rule(
        "illegal-instruction",
        _killed_by("SIGILL", 4) + "|^Fatal Python error: Illegal instruction",
        "the processor does not know an instruction that vLLM was built with, or may not use it here (SIGILL)",
        "vLLM needs a processor with AVX2, and in a virtual machine one that passes the host's features on",
    ),
    Rule(
        "bus-error",
        _killed_by("SIGBUS", 7) + "|^Fatal Python error: Bus error",
        "a process of it found no room in shared memory, or could not read a file that it had mapped (SIGBUS)",
        "enlarge /dev/shm (Docker: --shm-size=2g or --ipc=host), and check the disk that holds the weights",
    ),
    Rule(
        "crash",
        _killed_by("SIGSEGV", 11) + "|^Fatal Python error: Segmentation fault",
        "a process of it crashed in native code (SIGSEGV)",
        "try --enforce-eager; if that does not help, run `vllama engine install --reinstall`",
    ),
)
