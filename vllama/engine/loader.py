"""From a model to an engine that can be started: weights at hand, address chosen, command line built."""

import contextlib
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vllama.engine.command import Address, context_tokens, engine_environment, vllm_arguments
from vllama.engine.engine import Engine, LaunchPlan
from vllama.engine.install import Environment, Profile
from vllama.engine.parsers import Parsers
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.catalogue import Catalogue, Model
from vllama.models.inspect import Checkpoint, inspect
from vllama.settings import Settings

logger = logging.getLogger("vllama.engine")

_MAX_SOCKET_PATH = 107
"""Bytes; a Unix socket's path cannot be longer (`sun_path` in unix(7))."""


class Loader:
    """Prepares engines. Owns the private folder in which their sockets lie; `close` removes it."""

    def __init__(self, settings: Settings, environment: Environment, catalogue: Catalogue) -> None:
        self._settings = settings
        self._environment = environment
        self._catalogue = catalogue
        self._folder = _private_folder()
        self._started = 0

    async def prepare(self, model: Model) -> tuple[Model, Engine]:
        """The model with its checkpoint, and its engine, not started yet.

        Raises VllamaError where the weights cannot be had, or are no model.
        """
        if model.checkpoint is None:
            logger.info("%s: downloading %s", model.name.short, model.source)
            path = await hub.download(model.source, revision=None, report=_log_progress(model.name.short))
            model = replace(model, checkpoint=inspect(path))
            self._catalogue.put(model)
        assert model.checkpoint is not None
        return model, Engine(self._plan(model, model.checkpoint))

    def _plan(self, model: Model, checkpoint: Checkpoint) -> LaunchPlan:
        address = self._address()
        arguments = vllm_arguments(
            checkpoint.path, model.engine_name, address, self._settings_for(checkpoint),
            self._parsers(checkpoint), self._environment.profile,
        )  # fmt: skip
        return LaunchPlan(
            command=[str(self._environment.python), "-m", "vllama_engine", "serve", *self._spare(), "--", *arguments],
            variables=engine_environment(self._environment, os.environ),
            url=address.url,
            name=model.engine_name,
            log=self._settings.home / "logs" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', model.name.short)}.log",
            stall_timeout=self._settings.load_timeout,
        )

    def _settings_for(self, checkpoint: Checkpoint) -> Settings:
        """The settings, with a context length above the model's own left to vLLM, as Ollama cuts `num_ctx` down."""
        wanted = context_tokens(self._settings.max_model_len or "auto")
        if wanted is None or wanted <= checkpoint.context_length or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in os.environ:
            return self._settings
        return self._settings.model_copy(update={"max_model_len": None})

    def _spare(self) -> list[str]:
        """Whether the engine keeps off one core: on a CPU, unless the user places vLLM's threads."""
        on_cpu = self._environment.profile is Profile.CPU
        return ["--spare-core"] if on_cpu and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ else []

    def _address(self) -> Address:
        if (port := self._settings.vllm_port) is not None:
            _check_port_free(port)
            return Address(port=port)
        # A new name for each start: the socket of an engine that was killed stays behind.
        self._started += 1
        if not self._folder.is_dir():
            self._folder = _private_folder()  # what tidies up temporary folders took it for forgotten
        return Address(socket=self._folder / f"{self._started}.sock")

    def _parsers(self, checkpoint: Checkpoint) -> Parsers:
        """Those that fit the model, except where the settings name others, or `none`."""
        tool_call = self._settings.tool_call_parser or checkpoint.parsers.tool_call
        reasoning = self._settings.reasoning_parser or checkpoint.parsers.reasoning
        return Parsers(
            tool_call=None if tool_call == "none" else tool_call,
            reasoning=None if reasoning == "none" else reasoning,
        )

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _private_folder() -> Path:
    """A folder that only this user can enter, short enough for a socket in it."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if parent and len(os.fsencode(parent)) + len("/vllama-12345678/123456.sock") <= _MAX_SOCKET_PATH:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="vllama-", dir=parent))
    raise ConfigError(
        "there is no folder for the engine's socket", "make the temporary folder writable, or use --vllm-port"
    )


def _check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"vLLM cannot listen on port {port} ({error.strerror})", "choose another with --vllm-port"
            ) from None


def _log_progress(name: str) -> Callable[[hub.DownloadProgress], None]:
    """Reports each further tenth of a download."""
    reported = -1

    def report(progress: hub.DownloadProgress) -> None:
        nonlocal reported
        if progress.total and (tenth := 10 * progress.completed // progress.total) > reported:
            reported = tenth
            logger.info("%s: downloaded %d %% of %.1f GB", name, 10 * tenth, progress.total / 1e9)

    return report
