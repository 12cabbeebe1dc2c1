"""Model names: what clients say.

`[scheme://][host/][namespace/]model[:tag]`, with Ollama's defaults, limits and short form; and the names of what
training has left, `peft:<base>:<job>[:<checkpoint>]` and `rl:<base>:<job>[:<checkpoint>]`, whose colons are no tags.
"""

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from vllama.errors import ConfigError

HOST = "registry.ollama.ai"
NAMESPACE = "library"
TAG = "latest"
HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_TAG = _MODEL
_LONGEST_PART = 80
_TRAINED_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_TRAINED = re.compile(rf"((?:peft|rl)(?::{_TRAINED_PART}){{2,3}}?)(?::{TAG})*", re.IGNORECASE)
_HUB_CACHE_FOLDER = re.compile(r"models--(.+)")


class InvalidName(ValueError):  # noqa: N818 - what it is, as HTTP's exceptions are named
    """A text that is no model name; its own text is what the routes answer with status 400."""


@dataclass(frozen=True)
class ModelName:
    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """The display form: defaults left out, the tag always shown."""
        if self.host != HOST:
            return self.qualified
        if self.is_trained:
            return self.model
        if self.namespace != NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def qualified(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for names that differ only in case: names are matched by this."""
        return self.qualified.lower()

    @property
    def hub_id(self) -> str | None:
        """The Hugging Face repository the name reads as: `Qwen/Qwen3-4B`, `hf.co/Qwen/Qwen3-4B`."""
        named = self.namespace != NAMESPACE if self.host == HOST else self.host.lower() in HUB_HOSTS
        return f"{self.namespace}/{self.model}" if named else None

    @property
    def is_trained(self) -> bool:
        """Whether it names a checkpoint of a training run: the colons are then part of the model's own name."""
        return ":" in self.model

    @property
    def is_reserved(self) -> bool:
        """Whether it begins as the names of training runs do, which nobody gives to a model."""
        return self.short.lower().startswith(("peft:", "rl:"))

    @property
    def is_remote(self) -> bool:
        """Whether it reads as a model of Ollama's cloud: `x:cloud`, `x:20b-cloud`."""
        return _source(self.tag) == "cloud"

    def set_apart(self, source: str) -> "ModelName":
        """The name with a piece of its source's hash, for when another source took it."""
        return replace(self, model=_marked(self.model, source))

    def __str__(self) -> str:
        return self.short


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> ModelName:
    """The name in `text`, with what is left out filled in; raises InvalidName."""
    if trained := _TRAINED.fullmatch(text.removeprefix(f"{HOST}/{NAMESPACE}/")):
        return ModelName(HOST, NAMESPACE, trained[1], TAG)
    rest, tag = _cut_tag(_without_local(text))
    *front, model = rest.rsplit("/", 2)
    namespace = front.pop() if front else NAMESPACE
    host = front.pop() if front else HOST
    scheme, separator, after = host.partition("://")
    if separator:
        host = after if scheme else ""
    parts = ((_HOST, host), (_NAMESPACE, namespace), (_MODEL, model), (_TAG, tag))
    if not all(pattern.fullmatch(part) for pattern, part in parts):
        raise InvalidName("invalid model name")
    return ModelName(host, namespace, model, tag)


def is_valid(text: str) -> bool:
    try:
        parse(text)
    except InvalidName:
        return False
    return True


def name_from_source(source: str) -> str:
    """A valid name for the model in a folder (its last part) or a hub repository (its own id).

    What a name cannot hold becomes `-`. An over-long part keeps its beginning and gets a piece of its hash, so that
    two sources with the same beginning stay apart.
    """
    if _looks_like_path(source):
        return _name_from_folder(Path(source))
    *organisation, model = source.strip("/").split("/")
    parts = [_clean(part, dots=False) for part in organisation[-1:]] + [_clean(model)]
    return "/".join(parts)


def trained_name(kind: str, base: str, job: str, checkpoint: str = "") -> ModelName:
    """The name of what a training run has left. base: the base model's name, or "" where nobody knows it."""
    parts = [base.removesuffix(f":{TAG}").rsplit("/", 1)[-1] or "unknown", job, *([checkpoint] if checkpoint else [])]
    return parse(":".join([kind, *(_clean(part) for part in parts)]))


def parse_model_argument(text: str) -> tuple[str | None, str]:
    """Split `NAME=SOURCE`; a source without a name gives (None, source). A path may itself hold a `=`."""
    left, separator, right = text.partition("=")
    if not separator or _exists(text):
        return None, text
    if not is_valid(left):
        if "/" not in left and left.strip() and not left.startswith((".", "~")):
            raise ConfigError(
                f"{left!r} is not a valid model name",
                "write NAME=SOURCE with letters, digits, '.', '_' and '-' in NAME",
            )
        return None, text
    if not right:
        raise ConfigError(f"{text!r} names a model without a source", "write NAME=FOLDER or NAME=ORGANISATION/MODEL")
    return left, right


def _cut_tag(text: str) -> tuple[str, str]:
    if text.rfind(":") > text.rfind("/"):
        rest, _, tag = text.rpartition(":")
        return rest, tag
    return text, TAG


def _without_local(text: str) -> str:
    rest, tag = _cut_tag(text)
    inner = _cut_tag(rest)[1]
    sources = {source for source in (_source(tag), _source(inner)) if source}
    if len(sources) > 1:
        raise InvalidName(f'use either :local or :cloud, not both: "{text}"')
    return rest if _source(tag) == "local" else text


def _source(tag: str) -> str:
    tag = tag.lower()
    if tag == "local":
        return tag
    return "cloud" if tag == "cloud" or tag.endswith("-cloud") else ""


def _looks_like_path(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or source.endswith("/") or source.count("/") > 1 or _exists(source)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _name_from_folder(path: Path) -> str:
    path = path.absolute()
    if path.parent.name == "snapshots" and (cached := _HUB_CACHE_FOLDER.fullmatch(path.parent.parent.name)):
        return name_from_source(cached[1].replace("--", "/", 1))
    # `..` and `.` say nothing about the model: only then are links followed.
    name = path.name if path.name not in {"", ".."} else path.resolve().name
    return _clean(name)


def _clean(part: str, *, dots: bool = True) -> str:
    plain = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_.-]+" if dots else r"[^A-Za-z0-9_-]+", "-", plain).strip("-.")
    if len(plain) > _LONGEST_PART:
        plain = _marked(plain, part)
    return plain or "model"


def _marked(plain: str, source: str) -> str:
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST_PART - 9].rstrip('-.')}-{mark}"
