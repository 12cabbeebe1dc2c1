"""LoRA on an engine: whether it is started for adapters, with room for how many, and vLLM's errors in plain words."""

import re
from collections.abc import Iterable
from pathlib import Path

from vllama.engine.command import Launch, names_any, user_arguments, user_value
from vllama.engine.profile import Profile
from vllama.errors import EngineError
from vllama.models.adapters import RANKS
from vllama.models.inspect import Checkpoint
from vllama.models.model import Model
from vllama.scheduling.plan import AdapterLimits
from vllama.settings import Settings

_SLOTS = 4
_KEPT = 4
"""Times as many adapters in RAM as in slots: moving one from there into a slot takes milliseconds."""
_RANK = 16

WITHOUT_ADAPTERS = frozenset(
    {
        "AriaForConditionalGeneration",
        "BailingMoeV2_5ForCausalLM",
        "BailingMoeV3ForCausalLM",
        "BailingMoeV3VLForConditionalGeneration",
        "BeeForConditionalGeneration",
        "BloomForCausalLM",
        "Cohere2MoeForCausalLM",
        "Cohere2VisionForConditionalGeneration",
        "CohereAsrForConditionalGeneration",
        "Cosmos3EdgeForConditionalGeneration",
        "DbrxForCausalLM",
        "DeepseekV32ForCausalLM",
        "DeepseekV41ForCausalLM",
        "DeepseekV4ForCausalLM",
        "DeepseekV4ForConditionalGeneration",
        "DeepseekVLV2ForCausalLM",
        "DiffusionGemmaForBlockDiffusion",
        "Dots3NoteForCausalLM",
        "FalconForCausalLM",
        "FalconMambaForCausalLM",
        "FireRedASR2ForConditionalGeneration",
        "FunASRForConditionalGeneration",
        "FunAudioChatForConditionalGeneration",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "Gemma3nForCausalLM",
        "Gemma3nForConditionalGeneration",
        "Glm5NextForCausalLM",
        "Glm5NextForConditionalGeneration",
        "HCXVisionV2ForCausalLM",
        "HYV4ForCausalLM",
        "HfMoondream",
        "HrmTextForCausalLM",
        "IQuestLoopCoderForCausalLM",
        "InklingForCausalLM",
        "InklingForConditionalGeneration",
        "KananaVForConditionalGeneration",
        "KimiK25ForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "KimiLinearForCausalLM",
        "KimiVLForConditionalGeneration",
        "LlavaOnevision2ForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "Mamba2ForCausalLM",
        "MambaForCausalLM",
        "MiDashengLMModel",
        "MiMoV2FlashForCausalLM",
        "MiMoV2ForCausalLM",
        "MiMoV2OmniForCausalLM",
        "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3SparseForConditionalGeneration",
        "Moondream3ForCausalLM",
        "MoonshotKimiaForCausalLM",
        "MossTranscribeDiarizeForConditionalGeneration",
        "NemotronParseForConditionalGeneration",
        "OpenVLAForActionPrediction",
        "OrionForCausalLM",
        "Ovis",
        "Ovis2_5",
        "Ovis2_6ForCausalLM",
        "Ovis2_6_MoeForCausalLM",
        "PaddleOCRVLForConditionalGeneration",
        "Phi3VForCausalLM",
        "Phi4ForCausalLMV",
        "Qwen2AudioForConditionalGeneration",
        "Qwen4ExpForCausalLM",
        "Qwen4ExpForConditionalGeneration",
        "RForConditionalGeneration",
        "SkyworkR1VChatModel",
        "StableLmForCausalLM",
        "Step1ForCausalLM",
        "Step3TextForCausalLM",
        "Step3VLForConditionalGeneration",
        "Step3p5ForCausalLM",
        "Step3p7ForConditionalGeneration",
        "StepVLForConditionalGeneration",
        "Zamba2ForCausalLM",
    }
)
"""Generative models whose class in vLLM 0.32 is no `SupportsLoRA`: with `--enable-lora` their engines do not start.
Those that vLLM has no class for run on Transformers' code, which takes adapters."""


def adapter_limits(
    model: Model, checkpoint: Checkpoint, models: Iterable[Model], settings: Settings
) -> AdapterLimits | None:
    """With room for which adapters a model's engine is started; None: for none.

    LoRA takes memory and time from every answer, so only engines that will need it are started with it. models: all
    that there are, among them the adapters on these weights.
    """
    user = user_arguments(settings)
    if names_any(user, ("--enable-lora",)):
        wanted = "--no-enable-lora" not in {argument.replace("_", "-") for argument in user}
    else:
        wanted = settings.max_loras is not None or any(True for _ in _ranks(model, models))
    if not wanted or "completion" not in checkpoint.capabilities or checkpoint.architecture in WITHOUT_ADAPTERS:
        return None
    kept = _number(user, "--max-cpu-loras") or settings.max_cpu_loras or _KEPT * slots(settings)
    rank = _number(user, "--max-lora-rank") or settings.max_lora_rank or _fitting(_ranks(model, models))
    return AdapterLimits(slots=max(kept, slots(settings)), rank=rank)


def slots(settings: Settings) -> int:
    """How many adapters one batch can mix."""
    return (
        _number(user_arguments(settings), "--max-loras")
        or settings.max_loras
        or min(_SLOTS, settings.max_cpu_loras or _SLOTS)
    )


def adapter_launch(limits: AdapterLimits, settings: Settings, profile: Profile) -> Launch:
    """What an engine that takes adapters is started with, less what the user gave."""
    user = user_arguments(settings)
    arguments: list[str] = []
    for flag, *value in (
        ("--enable-lora",),
        ("--max-loras", str(slots(settings))),
        ("--max-cpu-loras", str(limits.slots)),
        ("--max-lora-rank", str(limits.rank)),
    ):
        if not names_any(user, (flag,)):
            arguments += [flag, *value]
    if profile is Profile.CPU and not names_any(user, ("--worker-cls",)):
        arguments += ["--worker-cls", "vllama_engine.cpu_worker.AdapterWorker"]
    return Launch(tuple(arguments), {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})


def _ranks(model: Model, models: Iterable[Model]) -> Iterable[int]:
    """Of the adapters that the model's engine may be asked to load."""
    for other in (model, *models):
        if other.adapter is not None and other.weights == model.weights and not other.adapter.trouble:
            yield other.adapter.rank


def _fitting(ranks: Iterable[int]) -> int:
    """The smallest limit that takes all of them; those above vLLM's highest are refused when they are asked for."""
    highest = max((rank for rank in ranks if rank <= RANKS[-1]), default=_RANK)
    return next(allowed for allowed in RANKS if allowed >= max(highest, _RANK))


def _number(arguments: list[str], flag: str) -> int | None:
    value = user_value(arguments, flag)
    return int(value) if value is not None and value.isdecimal() else None


_MERGE = "`vllama merge` makes a model of it and its base"
_REASON = re.compile(r"failed with error '(.*)', please check the stack trace", re.DOTALL)
_FAILURES = (
    (
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)",
        "has rank {rank} and its engine takes ranks up to {limit}",
        "start the server with --max-lora-rank, or {merge}",
    ),
    (r"No adapter found", "is not there, or has no adapter_config.json", "check the folder"),
    (
        r"doesn't contain tensors|deserializing header|safetensors",
        "has no whole adapter_model.safetensors",
        "copy or download it again",
    ),
    (
        r"expected target modules in .* but received \['?(?P<module>[^',\]]+)",
        "changes {module}, which its base model does not have or vLLM cannot adapt",
        "check that the base is the model it was trained on, or {merge}",
    ),
    (
        r"[Ss]ize of tensor|shape",
        "does not fit the shape of its base model",
        "name the base that it was trained on: --lora NAME=PATH@BASE",
    ),
)


def loading_failure(path: Path, text: str) -> EngineError:
    """What vLLM's answer to loading the adapter in that folder means, and what to do."""
    for pattern, meaning, advice in _FAILURES:
        if match := re.search(pattern, text):
            found = match.groupdict()
            return EngineError(f"the adapter in {path} {meaning.format(**found)}", advice.format(merge=_MERGE))
    reason = match[1] if (match := _REASON.search(text)) else text
    return EngineError(f"vLLM cannot load the adapter in {path}: {reason.strip().rstrip('.')}", _MERGE)
