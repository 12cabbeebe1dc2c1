"""What is wrong with a checkpoint, its repository, or an adapter; or what vLLM does not do with it."""

from vllama.engine.diagnosis._rule import Rule, traceback_through

_AGAIN = "copy it again, or get it with `vllama pull`"
_NEWER = "use another model, or with --engine-python an environment of a newer vLLM that knows it"
_RUNS_CODE = "read that code, and if you trust it start the server with `-- --trust-remote-code`"

MODEL = (
    Rule(
        "gated-repository",
        r"Cannot access gated repo for url \S*?(?P<hub>https://[^/\s]+)/(?:api/models/)?(?P<repo>[^/\s]+/[^/\s]*[^/\s.])",
        "the repository {repo} is gated",
        "accept its terms at {hub}/{repo}, and set HF_TOKEN in the server's environment",
    ),
    Rule(
        "missing-repository",
        r"Repository Not Found for url: \S*?https://[^/\s]+/(?:api/models/)?(?P<repo>[^/\s]+/[^/\s]*[^/\s.])",
        "the hub has no repository {repo}, or shows it only to some",
        "check the name; for a private repository set HF_TOKEN in the server's environment",
    ),
    Rule(
        "not-in-cache",
        r"outgoing traffic has been disabled|Cannot reach \S+: offline mode is enabled"
        r"|couldn't connect to '\S+' to load the files?|We couldn't connect to",
        "files that the model needs are not on this machine, and engines get none from the hub",
        "get the whole repository with `vllama pull`, or name a folder that has all of it",
    ),
    Rule(
        "remote-code",
        r"requires you to execute|contains custom code which must be executed|setting `trust_remote_code=True`",
        "the model comes with code of its own, which is not run unless you allow it",
        _RUNS_CODE,
    ),
    Rule(
        "remote-code-packages",
        r"Model architectures \[|following packages that were not found in your environment",
        "the model's own code needs Python packages that the engine's environment lacks ({packages})",
        "install them there, or name an environment that has them with --engine-python",
        told=r"following packages that were not found in your environment: (?P<packages>.+?)\. Run `pip",
    ),
    Rule(
        "unknown-model-type",
        r"has model type `(?P<type>[^`]+)` but Transformers does not recognize this architecture",
        "vLLM's Transformers library does not know the model type {type}",
        _NEWER,
    ),
    Rule(
        "no-model-type",
        r"Unrecognized model in (?P<path>.+?)\. Should have a `model_type` key in its config\.json",
        "the config.json in {path} does not say of which type the model is (model_type)",
        "take the config.json of the model it was made from",
    ),
    Rule(
        "unknown-architecture",
        r"Model architectures \['(?P<names>[^\]]*)'\] (?:are not supported for now|failed to be inspected)",
        "vLLM does not know the architecture {names}",
        _NEWER,
    ),
    Rule(
        "broken-config",
        r"config file at '(?P<path>[^']+)' is not a valid JSON file",
        "{path} is no valid JSON",
        _AGAIN,
    ),
    Rule(
        "no-config",
        r"Invalid repository ID or local directory specified: '(?P<path>[^']*)'",
        "{path} has no config.json",
        "name the folder that holds config.json beside the weights; an adapter is named with --lora NAME=PATH@BASE",
    ),
    Rule(
        "no-tokenizer",
        traceback_through("in reply_label_ids") + "IndexError"
        "|Can't load tokenizer for|Unable to load vocabulary from file|Couldn't instantiate the backend tokenizer",
        "the model has no usable tokenizer",
        "put tokenizer.json and tokenizer_config.json of the model it was made from into its folder",
    ),
    Rule(
        "broken-tokenizer",
        traceback_through(r"tokenization_utils_base\.py") + r"json\.decoder\.JSONDecodeError: (?P<error>.*)$",
        "a file of the model's tokenizer is no valid JSON ({error})",
        _AGAIN,
    ),
    Rule(
        "missing-shards",
        r"Weight files referenced in index but missing: \{'(?P<path>[^']+)'",
        "the weights are incomplete: {path} is missing",
        _AGAIN,
    ),
    Rule(
        "no-weights",
        r"Cannot find any model weights with `(?P<path>[^`]+)`",
        "{path} holds no weights that vLLM can read",
        "put the *.safetensors files beside config.json",
    ),
    Rule(
        "broken-header",
        r"^File .* in (?:parse_safetensors_file_metadata|_read_safetensors_metadata_in_dir)$",
        "a file of weights is no safetensors file: it is damaged, or a pointer of Git LFS in its place",
        _AGAIN,
    ),
    Rule(
        "broken-header-in-config",
        r"validation error for VllmConfig\n+Value error, (?P<error>[\w ',-]+: line \d+ column \d+ \(char \d+\))",
        "a file of weights has a damaged header ({error})",
        _AGAIN,
    ),
    Rule(
        "cut-off-weights",
        r"SafetensorError: (?P<error>Error while deserializing header.*)$",
        "a file of weights is cut off or damaged ({error})",
        _AGAIN,
    ),
    Rule(
        "foreign-weights",
        r"There is no module or parameter named '(?P<name>[^']+)' in (?P<module>\w+)",
        "the weights do not belong to config.json: {module} has no {name}",
        "take config.json and weights of one model; an adapter's weights have to be merged with `vllama merge`",
    ),
    Rule(
        "missing-tensors",
        r"Following weights were not initialized from checkpoint: \{'(?P<name>[^']+)'",
        "the weights are incomplete: there is no {name} among them",
        _AGAIN,
    ),
    Rule(
        "wrong-shapes",
        r"^(?:\w+Error: )?(?P<error>start \(\d+\) \+ length \(\d+\) exceeds dimension size \(\d+\)"
        r"|Attempted to load weight .* into parameter .*|.*shape mismatch.*)\.?$",
        "the weights do not have the shape that config.json tells ({error})",
        "take config.json and weights of one model",
    ),
    Rule(
        "adapter-rank",
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)",
        "an adapter has rank {rank}, and the engine takes ranks up to {limit}",
        "raise --max-lora-rank, or make a model of it and its base with `vllama merge`",
    ),
    Rule(
        "adapter-missing",
        r"Loading lora (?P<name>\S+) failed: No adapter found for (?P<path>\S+)",
        "there is no adapter {name} in {path}",
        "name the folder that holds adapter_config.json, as --lora NAME=PATH@BASE",
    ),
    Rule(
        "unknown-quantization",
        r"(?:Unknown|Invalid) quantization method: (?P<method>[\w-]+)",
        "vLLM does not know the quantisation method {method}",
        "use the model in another form (AWQ, GPTQ, FP8 or unquantised)",
    ),
    Rule(
        "other-quantization",
        r"Quantization method specified in the model config \((?P<config>[\w-]+)\) does not match the quantization "
        r"method specified in the `quantization` argument \((?P<asked>[\w-]+)\)",
        "the checkpoint is quantised by {config}, and --quantization asks for {asked}",
        "leave --quantization out: the checkpoint says it itself",
    ),
    Rule(
        "not-quantized",
        r"Cannot find the config file for (?P<method>[\w-]+)",
        "--quantization asks for {method}, and the checkpoint is not quantised that way",
        "leave --quantization out: a checkpoint says itself how it is quantised",
    ),
    Rule(
        "half-quantization",
        r"Cannot find any of \[(?P<names>[^\]]+)\] in the model's quantization config",
        "the quantization_config of the checkpoint lacks {names}",
        "take the config.json, or quantize_config.json, that the quantised weights came with",
    ),
    Rule(
        "quantization-not-here",
        r"\b(?P<method>[\w-]+) quantization is currently not supported in (?P<device>\w+)",
        "vLLM cannot run {method} quantisation on this hardware ({device})",
        "use the model in another form, such as the unquantised one",
    ),
    Rule(
        "dtype-for-quantization",
        r"torch\.(?P<dtype>\w+) is not supported for quantization method (?P<method>[\w-]+)\. Supported dtypes: "
        r"\[torch\.(?P<other>\w+)",
        "{method} quantisation does not work with the type {dtype}",
        "use --dtype {other}",
    ),
    Rule(
        "context-too-long",
        r"User-specified max_model_len \((?P<length>\d+)\) is greater than the derived max_model_len "
        r"\(\w+=(?P<most>\d+)",
        "a context of {length} tokens is longer than the model's {most}",
        "use --max-model-len {most} or less, or set VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 in the server's environment",
    ),
    Rule(
        "heads-not-divisible",
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<size>\d+)",
        "the model's {heads} attention heads cannot be split over {size} GPUs",
        "use a --tensor-parallel-size that divides {heads}",
    ),
)
