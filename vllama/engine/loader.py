"""From a model to an engine that can be started: weights at hand, address chosen, command line built."""

import asyncio
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from msgspec import structs

from vllama.engine.adapters import adapter_launch, adapter_limits
from vllama.engine.budget import Budget
from vllama.engine.caches import Caches
from vllama.engine.command import (
    Address,
    Launch,
    context_tokens,
    engine_environment,
    names_any,
    user_arguments,
    user_value,
    vllm_arguments,
)
from vllama.engine.engine import Engine
from vllama.engine.footprint import Footprint, footprint
from vllama.engine.install import Environment
from vllama.engine.leftovers import Records
from vllama.engine.log_path import STANDBY, log_path
from vllama.engine.memory import Memory, check_fits, plan, plan_on_cpu, read_memory, share_launch
from vllama.engine.parsers import Parsers
from vllama.engine.plan import LaunchPlan
from vllama.engine.prefetch import prefetch_weights
from vllama.engine.profile import Profile
from vllama.engine.progress import Progress
from vllama.engine.sockets import SocketFolder
from vllama.engine.standby import Standby
from vllama.engine.startup import has_compiler, startup_arguments
from vllama.errors import ConfigError, EngineError
from vllama.models import hub
from vllama.models.catalogue import Catalogue
from vllama.models.inspect import Checkpoint, inspect
from vllama.models.model import Model
from vllama.models.names import name_from_source
from vllama.scheduling.plan import AdapterLimits, Demand
from vllama.settings import Settings

logger = logging.getLogger("vllama.engine")

_MEASURE_S = 10.0
_SLEEPING = 1.25
"""RAM for a sleeping engine, as a part of its weights: they lie there pinned, with room to spare."""


class Loader:
    """Makes engines, within the memory there is.

    Owns the private folder in which their sockets lie; `close` removes it. catalogue: where what is downloaded is put
    down, and which adapters there are is looked up. sibling: names a quantised form of a source, where one is known.
    standby: who forks the engines. records: where they are written down as long as they live.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        catalogue: Catalogue,
        sibling: Callable[[str], str | None] = lambda _: None,
        standby: Standby | None = None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._catalogue = catalogue
        self._sibling = sibling
        self._standby = standby
        self._user = user_arguments(settings)
        self._gpus = _split_over(self._user)
        self._budget = Budget(settings.memory_limit)
        self._caches = Caches(settings.home / "cache", environment.version)
        self._sockets = SocketFolder()
        self.records = Records(settings.home)

    async def fetch(self, model: Model, progress: Progress) -> Model:
        """The model with its weights on this machine. Raises VllamaError where they cannot be had, or are no model."""
        if model.checkpoint is not None:
            return model
        logger.info("%s: downloading %s", model.name.short, model.source)
        report = _report_to(progress, model.name.short)
        path = await hub.download(model.source, revision=_revision(model), report=report)
        model = replace(model, checkpoint=await asyncio.to_thread(inspect, path))
        self._catalogue.put(model)
        return model

    async def demand(self, model: Model) -> Demand:
        """The memory that an engine of the model is to have. Raises DoesNotFitError where there will never be enough.

        Where the user said how much each engine gets, it is that.
        """
        memory = await self._measure()
        needs = self._footprint(model, self._limits(model))
        most = self._budget.most()
        fraction = user_value(self._user, "--gpu-memory-utilization")
        if memory.gpus and fraction is not None:
            most = min(int(float(fraction) * memory.total), most)
            demand = Demand(max(needs.minimum, most), most, most)
        else:
            demand = plan(needs, most) if memory.gpus else plan_on_cpu(needs, most, _given_cache())
        check_fits(model.name.short, needs, demand, most, memory, lambda: self._sibling(model.source))
        return demand

    async def free(self) -> int:
        """Bytes that no engine has or is about to take."""
        await self._measure()
        return self._budget.free()

    def engine(self, model: Model, share: int | None) -> Engine:
        """An engine for the model's weights, not started yet, whichever of the models on these weights it is.

        share: bytes that it may take, as `demand` planned them; None: all there is for engines, as it is the only one.
        """
        engine = Engine(self._plan(model, share), self.records, self._standby)
        self._budget.add(engine)
        return engine

    async def _measure(self) -> Memory:
        try:
            async with asyncio.timeout(_MEASURE_S):
                return await asyncio.to_thread(self._look)
        except TimeoutError:
            raise EngineError("the GPU's driver does not answer", "see whether `nvidia-smi` does") from None

    def _look(self) -> Memory:
        memory = read_memory(self._environment.profile, self._gpus)
        self._budget.look(memory)
        return memory

    def _limits(self, model: Model) -> AdapterLimits | None:
        return adapter_limits(model, _checkpoint(model), self._catalogue, self._settings)

    def _footprint(self, model: Model, limits: AdapterLimits | None) -> Footprint:
        checkpoint = _checkpoint(model)
        return footprint(checkpoint, self._settings_for(checkpoint), self._environment.profile, self._gpus, limits)

    def _plan(self, model: Model, share: int | None) -> LaunchPlan:
        checkpoint, limits, name = _checkpoint(model), self._limits(model), self._base_name(model)
        needs = self._footprint(model, limits)
        size = share if share is not None else self._whole(needs)
        address = self._address()
        sleeps = self._sleeps(model, address)
        launch = self._launch(limits, needs, size, sleeps) + Launch((), self._caches.variables(model.weights))
        arguments = vllm_arguments(
            checkpoint.path, name, address, self._settings_for(checkpoint), self._parsers(checkpoint), launch
        )
        return LaunchPlan(
            command=[*_launcher(self._environment), "serve", *_spare(self._environment), "--", *arguments],
            variables=engine_environment(self._environment, os.environ, launch),
            scratch=self._sockets.path,
            meanwhile=partial(self._meanwhile, model.weights, checkpoint.path),
            url=address.url,
            name=name,
            log=log_path(self._settings.home, name),
            stall_timeout=self._settings.load_timeout,
            size=size or needs.minimum,
            adapters=limits,
            sleep_size=int(_SLEEPING * checkpoint.size) if sleeps else None,
            full_context=None if needs.asked else needs.context,
        )

    def _meanwhile(self, weights: str, folder: Path, stop: threading.Event) -> None:
        prefetch_weights(folder, stop)
        self._caches.tidy(stop, keep=weights)

    def _whole(self, needs: Footprint) -> int | None:
        """For an only engine; None as long as nobody has looked what there is: then it is left to vLLM."""
        if self._budget.memory is None:
            return None
        most = self._budget.most()
        return most if self._budget.memory.gpus else plan_on_cpu(needs, most, _given_cache()).useful

    def _launch(self, limits: AdapterLimits | None, needs: Footprint, size: int | None, sleeps: bool) -> Launch:
        launch = Launch(self._startup())
        if limits is not None:
            launch += adapter_launch(limits, self._settings, self._environment.profile)
        if size is not None and self._budget.memory is not None:
            launch += share_launch(size, self._budget.memory, needs, self._user)
        if sleeps:
            launch += Launch(("--enable-sleep-mode",), {"VLLM_SERVER_DEV_MODE": "1"})
        return launch

    def _startup(self) -> tuple[str, ...]:
        startup, profile = self._settings.startup, self._environment.profile
        compiles = startup == "throughput" and has_compiler()
        if startup == "throughput" and profile is Profile.CPU and not compiles:
            logger.warning("there is no C++ compiler (g++, or what CXX names): models are not compiled")
        return startup_arguments(startup, profile, self._user, compiles=compiles)

    def _sleeps(self, model: Model, address: Address) -> bool:
        """Whether the engine is started so that it can sleep: where it may have to make room for other weights.

        vLLM's endpoints for it come with others that no stranger may reach, so not on a TCP port.
        """
        return (
            self._environment.profile is Profile.CUDA
            and address.socket is not None
            and not names_any(self._user, ("--enable-sleep-mode",))
            and any(other.weights != model.weights for other in self._catalogue)
        )

    def _base_name(self, model: Model) -> str:
        """What vLLM calls the weights: for an adapter's engine not the adapter's name."""
        if model.adapter is None:
            return model.engine_name
        bases = (other for other in self._catalogue if other.weights == model.weights and other.adapter is None)
        base = next(bases, None)
        return base.engine_name if base is not None else name_from_source(model.source)

    def _settings_for(self, checkpoint: Checkpoint) -> Settings:
        """The settings, with a context length above the model's own left to vLLM, as Ollama cuts `num_ctx` down."""
        wanted = context_tokens(self._settings.max_model_len or "auto")
        if wanted is None or wanted <= checkpoint.context_length or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in os.environ:
            return self._settings
        return structs.replace(self._settings, max_model_len=None)

    def _address(self) -> Address:
        if (port := self._settings.vllm_port) is not None:
            _check_port_free(port)
            return Address(port=port)
        return Address(socket=self._sockets.socket())

    def _parsers(self, checkpoint: Checkpoint) -> Parsers:
        """Those that fit the model, except where the settings name others, or `none`."""
        tool_call = self._settings.tool_call_parser or checkpoint.parsers.tool_call
        reasoning = self._settings.reasoning_parser or checkpoint.parsers.reasoning
        return Parsers(
            tool_call=None if tool_call == "none" else tool_call,
            reasoning=None if reasoning == "none" else reasoning,
        )

    def close(self) -> None:
        self._sockets.close()


def make_standby(settings: Settings, environment: Environment) -> Standby:
    """One for all models: it differs from their engines only in what each is started with."""
    return Standby(
        [*_launcher(environment), "standby"],
        engine_environment(environment, os.environ),
        log_path(settings.home, STANDBY),
    )


def _launcher(environment: Environment) -> list[str]:
    return [str(environment.python), "-m", "vllama_engine"]


def _spare(environment: Environment) -> list[str]:
    """Whether the engine keeps off one core: on a CPU, unless the user places vLLM's threads."""
    on_cpu = environment.profile is Profile.CPU
    return ["--spare-core"] if on_cpu and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ else []


def _checkpoint(model: Model) -> Checkpoint:
    assert model.checkpoint is not None, "fetched before"
    return model.checkpoint


def _revision(model: Model) -> str | None:
    weights = model.stored.manifest.weights if model.stored is not None else None
    return weights.revision or None if weights is not None else None


def _split_over(user: Sequence[str]) -> int:
    """How many GPUs one engine uses."""
    flags = ("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp")
    values = (next((value for name in names if (value := user_value(user, name))), "1") for names in flags)
    return math.prod(int(value) if value.isdecimal() else 1 for value in values)


def _given_cache() -> int | None:
    """GiB for a CPU engine's cache, where the user says how many."""
    given = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")
    return int(given) if given.isdecimal() and int(given) else None


def _check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"vLLM cannot listen on port {port} ({error.strerror})", "choose another with --vllm-port"
            ) from None


def _report_to(progress: Progress, name: str) -> hub.Report:
    """Reports a download, and logs each further tenth of it."""
    reported = -1

    def report(download: hub.DownloadProgress) -> None:
        nonlocal reported
        if not (total := download.total):
            return
        progress.measure(download.completed, total, f"{download.completed / 1e9:.1f} of {total / 1e9:.1f} GB")
        if (tenth := 10 * download.completed // total) > reported:
            reported = tenth
            logger.info("%s: downloaded %d %% of %.1f GB", name, 10 * tenth, total / 1e9)

    return report
