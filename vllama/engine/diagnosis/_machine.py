"""What the machine, its driver or its system do not give."""

from vllama.engine.diagnosis._rule import Rule

_DRIVER = "update the NVIDIA driver, then restart the machine"

MACHINE = (
    Rule(
        "old-driver",
        r"The NVIDIA driver on your system is too old \(found version (?P<major>\d\d)0(?P<minor>\d)0\)",
        "the NVIDIA driver is too old: it goes up to CUDA {major}.{minor}, and vLLM was built for a later one",
        _DRIVER,
    ),
    Rule(
        "insufficient-driver",
        r"CUDA driver version is insufficient for CUDA runtime version|provided PTX was compiled with an unsupported",
        "the NVIDIA driver is older than the CUDA that vLLM was built for",
        _DRIVER,
    ),
    Rule(
        "no-gpu",
        r"No CUDA GPUs are available|Found no NVIDIA driver|Failed to infer device type|no CUDA-capable device",
        "vLLM sees no GPU",
        "check `nvidia-smi`, CUDA_VISIBLE_DEVICES and (Docker) --gpus all; or use `vllama serve --profile cpu`",
    ),
    Rule(
        "no-bfloat16",
        r"Bfloat16 is only supported .* Your (?P<gpu>.+?) GPU has compute capability (?P<has>[\d.]*\d)",
        "the GPU ({gpu}, compute capability {has}) cannot compute in bfloat16, which needs 8.0",
        "use --dtype float16",
    ),
    Rule(
        "gpu-too-old-for-quantization",
        r"The quantization method (?P<method>[\w-]+) is not supported for the current GPU\. "
        r"Minimum capability: (?P<needs>\d+)(?P<minor>\d)\. Current capability: (?P<has>\d+)(?P<has_minor>\d)",
        "{method} quantisation needs a GPU of compute capability {needs}.{minor}, and this one has {has}.{has_minor}",
        "use the model in another form, such as AWQ, GPTQ or the unquantised one",
    ),
    Rule(
        "gpu-too-old-for-scheme",
        r"Quantization scheme is not supported for\W+the current GPU\. "
        r"(?:Min|Required) capability: (?P<needs>\d+)(?P<minor>\d)"
        r"\W+Current capability: (?P<has>\d+)(?P<has_minor>\d)",
        "its quantisation needs a GPU of compute capability {needs}.{minor}, and this one has {has}.{has_minor}",
        "use the model in another form, such as AWQ, GPTQ or the unquantised one",
    ),
    Rule(
        "no-kernels",
        r"no kernel image is available for execution on the device",
        "vLLM was not built for a GPU of this generation",
        "name an environment whose vLLM was built for it with --engine-python, or use `vllama serve --profile cpu`",
    ),
    Rule(
        "too-few-gpus",
        r"(?:World|Tensor parallel) size \((?P<wanted>\d+)\) (?:is|cannot be) larger than the number of available GPUs "
        r"\((?P<there>\d+)\)",
        "the model is to be split over {wanted} GPUs, and there are {there}",
        "lower --tensor-parallel-size to {there}, or show vLLM more GPUs with CUDA_VISIBLE_DEVICES",
    ),
    Rule(
        "nccl",
        r"(?:NCCL error: |NCCL error in: \S+, )(?P<error>[\w ]*\w)",
        "the GPUs cannot talk to each other (NCCL: {error})",
        "see what NCCL_DEBUG=INFO in the server's environment adds to the log; in Docker give --shm-size=2g",
    ),
    Rule(
        "open-files",
        r"Too many open files",
        "the engine may not open as many files as it needs",
        "raise the limit where the server is started (`ulimit -n 65536`, or LimitNOFILE= of a systemd unit)",
    ),
    Rule(
        "threads",
        r"can't start new thread|Resource temporarily unavailable",
        "the engine may not start as many processes and threads as it needs",
        "raise the limit where the server is started (`ulimit -u`, TasksMax= of systemd, --pids-limit of Docker)",
    ),
    Rule(
        "address-taken",
        r"\[Errno 98\] (?:error while attempting to bind on address .*: )?[Aa]ddress already in use",
        "the port or socket that vLLM is to listen on is taken",
        "choose another port with --vllm-port, or leave it out for a private socket",
    ),
    Rule(
        "socket-path",
        r"AF_UNIX path too long",
        "the path of the engine's socket is longer than the 107 bytes that Linux allows",
        "set TMPDIR or XDG_RUNTIME_DIR to a short path, or use --vllm-port",
    ),
    Rule(
        "no-command",
        r"Command '(?P<command>[\w.-]+)[^']*' returned non-zero exit status 127",
        "the engine runs the command {command}, and it is not installed, or not in PATH",
        "install {command} (lscpu comes with util-linux), or see to the PATH of the server",
    ),
    Rule(
        "no-compiler",
        r"InvalidCxxCompiler|No working C\+\+ compiler found|Failed to find C compiler|Compiler: \S+ is not found",
        "compiling the model takes a C and C++ compiler, and none is found",
        "install gcc and g++, or start the server with --enforce-eager",
    ),
)
