"""The key/value cache: keys and values of every layer, kept so that each new token costs one position of work."""

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig
from fromzero.model.attention import LayerCache


class KVCache:
    """Room for `capacity` tokens in one contiguous block, (layers, 2, B, K, S, C)."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate at once; capacity defaults to the model's context."""
        self.capacity = capacity or config.context
        shape = (config.layers, 2, batch, config.key_value_heads, self.capacity, config.head_size)
        self._store = torch.empty(shape, dtype=dtype, device=device)
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens stored so far."""
        return self._position

    def layer(self, index: int) -> LayerCache:
        """The view that layer `index` appends to."""
        return _LayerView(self, index)

    def advance(self, tokens: int) -> None:
        """Say that every layer has stored that many more."""
        self._position += tokens

    def reset(self, position: int = 0) -> None:
        """Forget everything after the first `position` tokens."""
        assert 0 <= position <= self._position
        self._position = position

    def write(self, index: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; returns all of that layer so far."""
        start, end = self._position, self._position + k_BKTC.shape[2]
        if end > self.capacity:
            raise UserError(f"the cache holds {self.capacity} tokens; {end} do not fit")
        self._store[index, 0, :, :, start:end] = k_BKTC
        self._store[index, 1, :, :, start:end] = v_BKTC
        return self._store[index, 0, :, :, :end], self._store[index, 1, :, :, :end]


class _LayerView(LayerCache):
    def __init__(self, cache: KVCache, index: int) -> None:
        self._cache, self._index = cache, index

    def append(self, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        return self._cache.write(self._index, k_BKTC, v_BKTC)
