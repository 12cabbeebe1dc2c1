"""How many files and connections this process may have open, and what that leaves for requests.

Where none is left, the event loop takes each new connection only to close it again, and no engine can be reached. So
the bounds on requests and connections are such that it does not come to that.
"""

import contextlib
import resource

MORE_FILES = "raise the limit where the server is started (`ulimit -n 65536`, or LimitNOFILE= of a systemd unit)"

_ENOUGH = 65536
"""As many as vLLM asks for its own processes, which inherit what the gateway may open."""
_OWN = 256
"""Kept for engines' sockets, pipes and logs, for models that are read, and for what is down- and uploaded."""


def raise_limit() -> int:
    """Let this process, and those that it starts, open as many as it may without asking anybody, if not all too many.

    Returns how many that are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limit()
    with contextlib.suppress(ValueError, OSError):  # some systems promise more than they grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """How many this process may open, as far as it matters."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft


def most_requests(files: int) -> int:
    """Each takes a connection to its client and one to its engine; as many again are left to those who are refused."""
    return max(1, (files - _own(files)) // 3)


def most_connections(files: int, requests: int) -> int:
    """With clients, beside so many connections to engines."""
    return max(1, files - _own(files) - requests)


def _own(files: int) -> int:
    return min(_OWN, files // 4)
