"""The key/value cache: keys and values of every layer, kept so that each new token costs one position of work."""

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig
from fromzero.model.attention import LayerCache


class KVCache:
    """Room for `capacity` tokens: for keys, and for values (or what latent attention keeps), (layers, B, K, S, C)."""

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
        self._stores = [
            torch.empty(config.layers, batch, heads, self.capacity, width, dtype=dtype, device=device)
            for heads, width in config.cache_shapes
        ]
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

    def select(self, rows: Tensor) -> None:
        """Go on with these sequences of the batch, in this order; one may come several times, others not at all."""
        if rows.tolist() != list(range(self._stores[0].shape[1])):
            self._stores = [store.index_select(1, rows) for store in self._stores]

    def write(self, index: int, new_BKTC: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Store what is new of one layer; returns all of that layer so far."""
        start, end = self._position, self._position + new_BKTC[0].shape[2]
        if end > self.capacity:
            raise UserError(f"the cache holds {self.capacity} tokens; {end} do not fit")
        for store, new in zip(self._stores, new_BKTC, strict=True):
            store[index, :, :, start:end] = new
        return tuple(store[index, :, :, :end] for store in self._stores)


class _LayerView(LayerCache):
    def __init__(self, cache: KVCache, index: int) -> None:
        self._cache, self._index = cache, index

    def append(self, *new_BKTC: Tensor) -> tuple[Tensor, ...]:
        return self._cache.write(self._index, new_BKTC)
