"""Activations that are worked out again in the backward pass instead of being kept (Chen et al. 2016).

full: of a block only its input is kept. selective: also what is dear to make again, the products of matrices and
attention (Korthikanti et al. 2022, section 5, the other way round: cheap things are made again); norms, activations,
gates and rotations are not. Gradients are the same to the bit, with dropout too.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from fromzero.model.experts import mixtures
from fromzero.model.scene import Memory, Scene

Recompute = Literal["none", "selective", "full"]

_aten = torch.ops.aten
# Where the two factors are among the arguments.
_PRODUCTS = {_aten.mm.default: 0, _aten.addmm.default: 1, _aten._scaled_mm_v2.default: 0, _aten._grouped_mm.default: 0}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def recomputed(
    block: nn.Module,
    layers: Callable[[Tensor, Scene, None, Memory | None], Tensor],
    how: Recompute,
    x_BTD: Tensor,
    scene: Scene,
    memory: Memory | None,
    draws: bool,
) -> Tensor:
    """layers(x, scene, None, memory) of a block, of which less is kept for the backward pass.

    draws: whether there is anything random in it, whose state has to be kept too.
    """

    def run(x_BTD: Tensor) -> Tensor:
        # Keys and values that the first run left in the memory would change what the second one does.
        return layers(x_BTD, scene, None, None if memory is None else replace(memory, pairs={}))

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        if how == "full":
            return nullcontext(), _uncounted(block, nullcontext())
        first, again = create_selective_checkpoint_contexts(_policy)
        return first, _uncounted(block, again)

    kept: Tensor = checkpoint(run, x_BTD, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts)
    return kept


def _policy(_: Any, operation: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    """Products that make rows narrower are not kept: nothing looks at the last one, and others cost little."""
    keep = operation in _ATTENTION
    if (place := _PRODUCTS.get(operation)) is not None:
        keep = arguments[place + 1].shape[-1] >= arguments[place].shape[-1]
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _uncounted(block: nn.Module, inner: AbstractContextManager[Any]) -> Iterator[None]:
    """Tokens that pass experts a second time are not counted again."""
    before = [(mixture, mixture.losses, mixture.load_E) for mixture in mixtures(block)]
    try:
        with inner:
            yield
    finally:
        for mixture, losses, load_E in before:
            mixture.losses, mixture.load_E = losses, load_E
