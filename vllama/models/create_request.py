"""What is asked for by /api/create, checked before anything is done. Everything here raises ApiError."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from vllama.errors import ApiError
from vllama.models.blobs import read_digest
from vllama.models.modelfile_parser import NO_DRAFT, NO_SEMVER, ROLES, read_version
from vllama.translate.options import check_options
from vllama.wire.create import CreateRequest
from vllama.wire.ollama import Message

NO_GGUF = (
    "{}: vLLM is not given GGUF files: upload the safetensors files that it was made from, with their config.json, or "
    "pull their repository"
)
_NO_QUANTIZE = (
    "quantize: models are not quantised when they are created: pull one that is, like an AWQ, GPTQ or FP8 repository, "
    "or have vLLM do it as it loads: vllama serve -- --quantization fp8"
)
_LONGEST_PART, _LONGEST_PATH = 255, 1024
"""Bytes of a file's name, and of a path: what file systems take."""
_INFO_TEXTS = ("model_family", "base_name", "quantization_level", "parameter_size")
_INFO_NUMBERS = ("context_length", "embedding_length")


def check_files(request: CreateRequest) -> None:
    """The paths and digests of what was uploaded."""
    for files in (request.files, request.adapters, request.draft_files):
        if not all(_is_inside(name) for name in files or ()):
            raise ApiError(400, "file path must be relative")
        if (name := next(_misplaced(files or {}), None)) is not None:
            raise ApiError(400, f"file path {name!r} cannot be: a part of it is too long, or is another file")
        if any(read_digest(digest) is None for digest in (files or {}).values()):
            raise ApiError(400, "invalid digest format")


def check_request(request: CreateRequest) -> None:
    """All that can be said without looking for a model."""
    if not request.from_ and not request.files:
        raise ApiError(400, "neither 'from' or 'files' was specified")
    if request.from_ and request.files:
        raise ApiError(400, "files: give either these or 'from'")
    if request.remote_host:
        raise ApiError(400, "bad remote: remote_host: no models of other hosts are served here")
    if request.quantize or request.quantization:
        raise ApiError(400, _NO_QUANTIZE)
    if request.draft_files:
        raise ApiError(400, f"draft_files: {NO_DRAFT}")
    if request.draft_quantize:
        raise ApiError(400, "--draft-quantize requires a DRAFT model")
    for name in (*(request.files or ()), *(request.adapters or ())):
        if name.lower().endswith(".gguf"):
            raise ApiError(400, NO_GGUF.format(name))
    if request.requires and read_version(request.requires) is None:
        raise ApiError(400, NO_SEMVER)
    for number, message in enumerate(request.messages or ()):
        _check_message(f"messages[{number}]", message)
    read_parameters(request)
    _check_info(request.info or {})


def read_parameters(request: CreateRequest) -> dict[str, Any]:
    """Those that have a meaning. What is wrong with one would else be said of each request to the model."""
    try:
        return check_options(request.parameters or {})
    except ApiError as error:
        raise ApiError(400, f"parameters: {error.message}") from None


def digests(files: Mapping[str, str] | None) -> dict[str, str]:
    """Files that `check_files` has passed, their digests in one form."""
    return {name: read_digest(digest) or "" for name, digest in (files or {}).items()}


def _is_inside(name: str) -> bool:
    """Whether it names a file below the folder that it is in, in the only way to write it."""
    path = PurePosixPath(name)
    plain = str(path) == name and "\\" not in name and name.isprintable()
    return plain and not path.is_absolute() and ".." not in path.parts and name != "."


def _misplaced(names: Collection[str]) -> Iterator[str]:
    """Those that no folder could hold besides the others."""
    for name in names:
        path = PurePosixPath(name)
        long = len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_PART for part in path.parts)
        if long or any(str(parent) in names for parent in path.parents):
            yield name


def _check_message(field: str, message: Message) -> None:
    if message.role.lower() not in ROLES:
        raise ApiError(400, f"{field}.role: message role must be one of {', '.join(ROLES)}")
    if message.images or message.tool_calls:
        raise ApiError(400, f"{field}: a model's own messages are texts, without images and tool calls")


def _check_info(info: Mapping[str, Any]) -> None:
    for name in _INFO_TEXTS:
        if not isinstance(info.get(name) or "", str):
            raise ApiError(400, f'info field "{name}" must be a string')
    for name in _INFO_NUMBERS:
        if (value := info.get(name)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ApiError(400, f'info field "{name}" must be a number')
        if value < 0 or value != int(value):
            raise ApiError(400, f'info field "{name}" must be a non-negative integer')
    listed = info.get("capabilities") or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ApiError(400, 'info field "capabilities" must be an array of strings')
