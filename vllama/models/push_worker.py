"""`python -m vllama.models.push_worker`: upload files to a hub repository.

What is to be done comes as a line of JSON on stdin: `repo`, `files` (names there, paths here) and `texts` (names there,
contents). It reports as the download's worker does, and ends with its parent as that does. The token is the user's own,
from where huggingface_hub finds it.
"""

import json
import sys
import threading
import time
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token

from vllama.models._worker import Refused, run, say

_ALIVE_EVERY = 20.0


def main(job: dict[str, Any]) -> str:
    if not get_token():
        raise Refused("no_token")
    threading.Thread(target=_stay_alive, daemon=True).start()
    try:
        return _push(job)
    except errors.HfHubHTTPError as error:
        if error.response.status_code == 403:
            raise Refused("not_allowed") from error
        raise


def _push(job: dict[str, Any]) -> str:
    api, repo = HfApi(library_name="vllama"), job["repo"]
    api.create_repo(repo, private=True, exist_ok=True)
    additions = [CommitOperationAdd(name, path) for name, path in job["files"].items()]
    additions += [CommitOperationAdd(name, text.encode()) for name, text in job["texts"].items()]
    sizes = [addition.upload_info.size for addition in additions]
    files = [
        [addition.path_in_repo, f"sha256:{addition.upload_info.sha256.hex()}", size]
        for addition, size in zip(additions, sizes, strict=True)
    ]
    say({"files": files, "completed": [0] * len(files)})
    for done, addition in enumerate(additions, 1):
        api.preupload_lfs_files(repo, [addition], free_memory=False)
        say({"completed": sizes[:done] + [0] * (len(sizes) - done)})
    return api.create_commit(repo, additions, commit_message="Upload with vllama").oid


def _stay_alive() -> None:
    """A large file takes long, and huggingface_hub does not say how far it is. It has deadlines of its own."""
    while True:
        time.sleep(_ALIVE_EVERY)
        say({})


if __name__ == "__main__":
    # The end of stdin is waited for only after this line was read.
    line = json.loads(sys.stdin.buffer.readline())
    run(lambda: main(line))
