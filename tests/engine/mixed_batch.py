"""Runs in the engine's environment: a batch of base and adapter rows through vLLM's operations, before and after."""

import torch
from vllama_engine import cpu_worker
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

BASE = -1
SLOTS = torch.tensor([0, BASE, 1, BASE])
ADAPTED = SLOTS >= 0


def linear() -> torch.Tensor:
    """What the wrapper adds to a layer's output of zeros, first for a step of prompts, then for one of answers."""
    torch.manual_seed(0)
    wrapper = punica_cpu.PunicaWrapperCPU(8, 4, "cpu")
    wrapper._token_lora_indices[:4] = SLOTS
    wrapper.indices_len[0] = 4
    inputs, a, b = torch.rand(4, 16), torch.rand(2, 1, 8, 16), torch.rand(2, 1, 16, 8)
    outputs = []
    for prefill in (True, False):
        wrapper.is_prefill = prefill
        wrapper._update_prefill_metadata(wrapper.token_lora_indices)
        outputs.append(torch.zeros(4, 16))
        wrapper.add_lora_linear(outputs[-1], inputs, (a,), (b,), 1.0, (16,))
    assert torch.allclose(outputs[0], outputs[1])
    return outputs[0]


def main() -> None:
    assert {name for name in vars(lora_ops) if name.startswith("bgmv")} == set(cpu_worker.OPERATIONS)
    before = linear()
    print("before: base rows", "kept" if not before[~ADAPTED].any() else "changed")
    cpu_worker.correct_operations()
    after = linear()
    assert torch.equal(before[ADAPTED], after[ADAPTED])
    print("after: base rows", "kept" if not after[~ADAPTED].any() else "changed")


if __name__ == "__main__":
    main()
