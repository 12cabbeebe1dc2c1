"""vLLM's CPU worker, put right for batches that mix requests for a base model and for its adapters.

In such a batch vLLM marks the rows without an adapter by the index -1 (`convert_mapping` in lora/punica_wrapper/utils).
Its GPU kernels skip these rows. The CPU's operations index the stacked weights with it, and -1 is the last slot: base
requests are answered with the weights of whatever adapter lies there, or last did, as unloading only forgets its name.
`--worker-cls` brings this worker into vLLM's spawned processes, where nothing patched in their parent arrives.
"""

from collections.abc import Callable
from typing import Any

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.v1.worker.cpu_worker import CPUWorker

Operation = Callable[..., None]

OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""All that index weights: the `sgmv` ones, for prompts, come down to these."""


class AdapterWorker(CPUWorker):  # type: ignore[misc] # vLLM is not there when types are checked
    """Rows without an adapter are left as they are."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        correct_operations()
        super().load_model(*args, **kwargs)


def correct_operations() -> None:
    """Replace vLLM's, in the module that has them and in the one that imports them by name."""
    for name in OPERATIONS:
        right = _leave_base_rows(getattr(lora_ops, name))
        setattr(lora_ops, name, right)
        setattr(punica_cpu, name, right)


def _leave_base_rows(operation: Operation) -> Operation:
    """The operation with an input of zeros for rows of index -1, to which any adapter adds nothing."""

    def masked(
        inputs: torch.Tensor,
        weights: torch.Tensor,
        output: torch.Tensor,
        indices: torch.Tensor,
        *rest: Any,
        **more: Any,
    ) -> None:
        adapted = torch.where((indices >= 0).unsqueeze(-1), inputs, torch.zeros_like(inputs))
        operation(adapted, weights, output, indices, *rest, **more)

    return masked
