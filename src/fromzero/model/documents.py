"""Attention of tokens to their own document only, where a row holds several.

A mask says it in general, but costs all of a row's scores. Here each document is attended to alone: on a GPU in one
call for all of them, on a CPU in one for each, unless they are so short that the calls cost more than the scores.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.model import functions

SHORTEST = 64
"""Mean length in tokens from which calls of their own are faster on a CPU."""


class WithinDocuments:
    """Does attention in place of attention.attend, with its arguments but the scene; no soft cap and no sinks."""

    def __init__(self, documents_BT: Tensor, causal: bool, mask: Callable[[], Tensor]) -> None:
        """mask: makes what attention has where documents can't be attended to alone."""
        self.rows, self.length = documents_BT.shape
        self.causal, self.mask = causal, functools.cache(mask)
        starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
        starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        self.starts_N = starts_BT.flatten().nonzero().squeeze(1).to(torch.int32)
        """Places of the first tokens, rows one after another."""

    @torch.compiler.disable
    def __call__(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, scale: float | None, *_: object) -> Tensor:
        if q_BHTC.is_cuda and q_BHTC.dtype in (torch.bfloat16, torch.float16) and q_BHTC.shape[-1] == v_BKTC.shape[-1]:
            return self._at_once(q_BHTC, k_BKTC, v_BKTC, scale)
        groups = q_BHTC.shape[1] // k_BKTC.shape[1]
        k_BHTC, v_BHTC = functions.repeat_heads(k_BKTC, groups), functions.repeat_heads(v_BKTC, groups)
        if q_BHTC.is_cuda or len(self.starts_N) * SHORTEST > self.rows * self.length:
            return F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, attn_mask=self.mask(), scale=scale)
        return self._one_by_one(q_BHTC, k_BHTC, v_BHTC, scale)

    def _one_by_one(self, q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, scale: float | None) -> Tensor:
        starts = self.starts_N.tolist()
        rows: list[list[Tensor]] = [[] for _ in range(self.rows)]
        for start, stop in zip(starts, [*starts[1:], self.rows * self.length], strict=True):
            row, first = divmod(start, self.length)
            q, k, v = (x[row : row + 1, :, first : first + stop - start] for x in (q_BHTC, k_BHTC, v_BHTC))
            rows[row].append(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=scale))
        return torch.cat([torch.cat(pieces, 2) for pieces in rows])

    def _at_once(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, scale: float | None) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        bounds = F.pad(self.starts_N, (0, 1), value=self.rows * self.length)
        q_NHC, k_NKC, v_NKC = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTC, k_BKTC, v_BKTC))
        size, window = self.length, (-1, 0 if self.causal else -1)
        gqa = q_NHC.shape[1] > k_NKC.shape[1]
        mixed_NHC = varlen_attn(
            q_NHC, k_NKC, v_NKC, bounds, bounds, size, size, scale=scale, window_size=window, enable_gqa=gqa
        )
        assert isinstance(mixed_NHC, Tensor)
        return mixed_NHC.unflatten(0, (self.rows, self.length)).transpose(1, 2)
