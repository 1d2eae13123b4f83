"""Keys and values in pages, and attention over them: how tokens of many sequences go through a model as one row.

The tokens of all spans lie behind each other in a batch of one, (1, T); rotary angles and learned positions go by
`positions_BT`, and `attend` sees to it that the queries of a span meet the keys of its own sequence. Everything else
of a model works on tokens one by one, so every decoder can be served like this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.inference.request import Span
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.attention import LayerCache, attend
from fromzero.model.block import Stack
from fromzero.model.scene import Memory, Scene, Tokens, make_scene

Model = Transformer | EncoderDecoder


class PageStore:
    """Room for `pages` x `size` tokens in every layer: for keys and for values, (layers, slots, K, C).

    In int8, what a head keeps of a token is codes from -127 to 127 times a scale of its own, so that the error of a
    number is at most half a scale, 1/254 of the largest.
    """

    def __init__(
        self, model: Model, pages: int, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.pages, self.size, self.device = pages, size, torch.device(device)
        rows, shapes = (model.config.layers, pages * size), model.config.cache_shapes
        self.tensors = [torch.zeros(*rows, *shape, dtype=dtype, device=device) for shape in shapes]
        coded = shapes if dtype == torch.int8 else ()
        self.scales = [torch.zeros(*rows, heads, device=device) for heads, _ in coded]
        """Of int8: (layers, slots, K) in fp32 for keys and for values."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in (*self.tensors, *self.scales))

    def slots(self, spans: Sequence[Span]) -> list[Tensor]:
        """Where the tokens of each sequence are, those of the span too: (S,) for each."""
        pages = torch.tensor([page for span in spans for page in span.pages], device=self.device)
        places = (pages[:, None] * self.size + torch.arange(self.size, device=self.device)).flatten()
        starts = accumulate((len(span.pages) * self.size for span in spans), initial=0)
        return [places[at : at + span.start + len(span.ids)] for at, span in zip(starts, spans, strict=False)]

    def write(self, layer: int, slots_T: Tensor, new_BKTC: Sequence[Tensor]) -> None:
        """Store what is new of one layer; the batch is one."""
        for number, (store, new) in enumerate(zip(self.tensors, new_BKTC, strict=True)):
            new_TKC = new[0].transpose(0, 1)
            if self.scales:
                scale_TK = new_TKC.abs().amax(-1).float() / 127
                self.scales[number][layer].index_copy_(0, slots_T, scale_TK)
                new_TKC = (new_TKC / scale_TK.clamp(min=1e-30)[..., None]).round()
            store[layer].index_copy_(0, slots_T, new_TKC.to(store.dtype))

    def read(self, layer: int, slots_BS: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Keys and values (B, K, S, C) of sequences in one layer."""
        flat_S = slots_BS.flatten()
        found_SKC = [store[layer].index_select(0, flat_S) for store in self.tensors]
        for number, scale in enumerate(self.scales):
            found_SKC[number] = found_SKC[number] * scale[layer].index_select(0, flat_S)[..., None]
        return tuple(found.unflatten(0, slots_BS.shape).transpose(1, 2).to(dtype) for found in found_SKC)


def token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """What a token takes in a PageStore."""
    scale = 4 if dtype == torch.int8 else 0
    return config.layers * sum(heads * (width * dtype.itemsize + scale) for heads, width in config.cache_shapes)


@dataclass(frozen=True)
class Group:
    """Spans whose attention is computed at once: one of several tokens, or all of one token."""

    tokens_N: Tensor
    """Which tokens of the step, those of one span behind those of another."""
    slots_BS: Tensor
    """Where the keys of each span are; shorter ones have anything on the left ..."""
    keep_BS: Tensor | None
    """... that is False here."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a step are, in their sequences and in the store."""

    positions_BT: Tensor
    """(1, T)."""
    new_T: Tensor
    """The slot of each token."""
    groups: Sequence[Group]

    @classmethod
    def of(cls, store: PageStore, spans: Sequence[Span]) -> "Places":
        """Where these spans are."""
        seen, device = store.slots(spans), store.device
        places = [place for span in spans for place in range(span.start, span.start + len(span.ids))]
        new_T = torch.cat([slots_S[span.start :] for span, slots_S in zip(spans, seen, strict=True)])
        single, groups, first = list[tuple[int, Tensor]](), list[Group](), 0
        for span, slots_S in zip(spans, seen, strict=True):
            if len(span.ids) == 1:
                single.append((first, slots_S))
            else:
                groups.append(Group(torch.arange(first, first + len(span.ids), device=device), slots_S[None], None))
            first += len(span.ids)
        if single:
            slots_BS, keep_BS = side_by_side([slots_S for _, slots_S in single])
            tokens_N = torch.tensor([token for token, _ in single], device=device)
            groups.append(Group(tokens_N, slots_BS, keep_BS))
        return cls(torch.tensor([places], device=device), new_T, groups)


def side_by_side(slots: Sequence[Tensor], width: int = 0) -> tuple[Tensor, Tensor | None]:
    """Slots of sequences as one matrix (B, S), at least so wide, filled up on the left, and what of it counts."""
    lengths = [len(slots_S) for slots_S in slots]
    longest = max(width, *lengths)
    slots_BS = torch.stack([F.pad(slots_S, (longest - len(slots_S), 0)) for slots_S in slots])
    if min(lengths) == longest:
        return slots_BS, None
    starts_B = longest - torch.tensor(lengths, device=slots_BS.device)
    return slots_BS, torch.arange(longest, device=slots_BS.device) >= starts_B[:, None]


class PagedStep:
    """The cache that a model is given for one step over several spans."""

    position = 0  # where tokens are is in positions_BT

    def __init__(self, decoder: Stack, store: PageStore, places: Places) -> None:
        self._config, self._store, self.places = decoder.config, store, places
        self._table = None if decoder.relative_bias is None else decoder.relative_bias.weight
        order_T = torch.cat([group.tokens_N for group in places.groups])
        self._back_T = order_T.argsort() if len(places.groups) > 1 else None
        self._layer = 0
        self._scenes: dict[tuple[bool, int], Scene] = {}

    def layer(self, index: int) -> LayerCache:
        """What layer `index` stores into; its attention comes next."""
        self._layer = index
        return _Layer(self, index)

    def advance(self, tokens: int) -> None:
        """Nothing: a step is given its positions."""

    def store(self, index: int, new_BKTC: tuple[Tensor, ...]) -> None:
        """Keep the keys and values of this step's tokens."""
        self._store.write(index, self.places.new_T, new_BKTC)

    def attend(
        self,
        q_BHTC: Tensor,
        k_BKTC: Tensor,
        v_BKTC: Tensor,
        scale: float | None = None,
        softcap: float | None = None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Attention of each span over its own sequence, (1, H, T, C); k and v are in the store already."""
        mixed = []
        for number, group in enumerate(self.places.groups):
            own_BHNC = q_BHTC[0].index_select(1, group.tokens_N).unflatten(1, (len(group.slots_BS), -1)).transpose(0, 1)
            k_BKSC, v_BKSC = self._keys_values(group, q_BHTC.dtype)
            mixed_BHNC = attend(own_BHNC, k_BKSC, v_BKSC, self._scene(number, group), scale, softcap, sinks_H)
            mixed.append(mixed_BHNC.transpose(0, 1).flatten(1, 2))
        mixed_HTC = torch.cat(mixed, 1)
        return (mixed_HTC if self._back_T is None else mixed_HTC.index_select(1, self._back_T))[None]

    def _keys_values(self, group: Group, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        first, second = self._store.read(self._layer, group.slots_BS, dtype)
        return (torch.cat([first, second], -1), first) if self._config.latent else (first, second)

    def _scene(self, number: int, group: Group) -> Scene:
        """Who sees whom in a group: the same in all layers alike."""
        windowed = self._config.windowed(self._layer)
        if (windowed, number) not in self._scenes:
            spans, keys = group.slots_BS.shape
            count = len(group.tokens_N) // spans
            tokens = Tokens(keys - count, count, self._store.device, keep_BT=group.keep_BS)
            self._scenes[windowed, number] = make_scene(self._config, tokens, True, windowed, None, self._table)
        return self._scenes[windowed, number]


class _Layer(LayerCache):
    def __init__(self, step: PagedStep, index: int) -> None:
        self._step, self._index = step, index

    def append(self, *new_BKTC: Tensor) -> tuple[Tensor, ...]:
        self._step.store(self._index, new_BKTC)
        return new_BKTC


@torch.inference_mode()
def hidden_at(model: Model, store: PageStore, ids_BT: Tensor, places: Places, memory: Memory | None = None) -> Tensor:
    """Compute the tokens (1, T) at their places; their normed hidden states (T, D)."""
    decoder, hidden = (
        (model.decoder, model.decode_hidden) if isinstance(model, EncoderDecoder) else (model, model.hidden)
    )
    step = PagedStep(decoder, store, places)
    return hidden(ids_BT, step, positions_BT=places.positions_BT, attend=step.attend, memory=memory)[0]


def hidden_spans(model: Model, store: PageStore, spans: Sequence[Span], memory: Memory | None = None) -> Tensor:
    """Compute all spans at once; the normed hidden states (T, D) of their tokens, span after span.

    memory: of an encoder-decoder, what the spans read.
    """
    ids_BT = torch.tensor([[i for span in spans for i in span.ids]], device=store.device)
    return hidden_at(model, store, ids_BT, Places.of(store, spans), memory)


@torch.inference_mode()
def run_spans(model: Model, store: PageStore, spans: Sequence[Span], memory: Memory | None = None) -> Tensor:
    """Compute all spans at once; logits (N, V) in fp32 of the places that are wanted, span after span."""
    return wanted_logits(model, hidden_spans(model, store, spans, memory), spans)


@torch.inference_mode()
def wanted_logits(model: Model, x_TD: Tensor, spans: Sequence[Span]) -> Tensor:
    """Logits (N, V) in fp32 of the wanted places, from the hidden states of all."""
    wanted, end = list[int](), 0
    for span in spans:
        end += len(span.ids)
        wanted += range(end - span.wanted, end)
    x_ND = x_TD.index_select(0, torch.tensor(wanted, dtype=torch.int64, device=x_TD.device))
    return model.head(x_ND, model.head_weight).float()


Run = Callable[[Sequence[Span]], Tensor]


def run_apart(spans: Sequence[Span], few: int, most: int, short: Run, long: Run) -> Tensor:
    """Spans, at least one: those of up to `few` tokens in calls of `short` with up to `most`, others in one of `long`.

    Logits (N, V) of the wanted places, span after span.
    """
    calls, rest, room = list[list[int]](), list[int](), 0
    for number, span in enumerate(spans):
        count = len(span.ids)
        if count > min(few, most):
            rest.append(number)
            continue
        if count > room:
            calls.append([])
            room = most
        calls[-1].append(number)
        room -= count
    return run_parts(spans, [*((call, short) for call in calls), (rest, long)])


def run_parts(spans: Sequence[Span], parts: Sequence[tuple[Sequence[int], Run]]) -> Tensor:
    """The same of spans by their numbers in calls of their own, some of which may be of none; each is in one."""
    found: dict[int, Tensor] = {}
    for which, run in parts:
        if list(which) == list(range(len(spans))):
            return run(spans)
        if which:
            logits_NV = run([spans[number] for number in which])
            found |= zip(which, logits_NV.split([spans[number].wanted for number in which]), strict=True)
    return torch.cat([found[number] for number in range(len(spans))])
