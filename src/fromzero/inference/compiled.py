"""Decoding on a CPU in one compiled call a step: how a model and its pages are laid out for `kernels.decoding`.

The matrices of all layers are moved into one array a kind, in the dtype that the model computes in; its layers keep
views of them, so nothing is kept twice, and prompts go through torch on the same weights.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from time import perf_counter, sleep
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fromzero.inference.paged import PageStore, run_apart, run_spans
from fromzero.inference.request import Span
from fromzero.model import Transformer
from fromzero.model.adapters import adapters
from fromzero.model.config import ModelConfig
from fromzero.model.layers import Norm
from fromzero.model.quantized import Matrix, QuantizedMatrix
from fromzero.model.scene import Tokens

Array = NDArray[Any]
_NONE, _HALVES = np.zeros(0, np.float32), np.zeros(0, np.int16)


class UnfitError(Exception):
    """A model can't be decoded so; says why."""


FEW = 8
"""Tokens of a sequence in a step, up to which they are compiled: answers, and drafts of them."""


class CompiledRunner:
    """Sequences with few tokens in a step go through compiled calls, longer pieces of prompts through torch."""

    def __init__(self, model: Transformer, store: PageStore, most: int = 8, threads: int = 0) -> None:
        """most: tokens of a compiled call; threads: 0 for as many as torch has. Raises UnfitError."""
        _check(model, store)
        self.model, self.store, self.most, self.why = model, store, most, "chosen by hand"
        self._team, self._single, self._pace = Team(threads or torch.get_num_threads()), Team(1), Pace()
        self._shape, self._weights = _shape(model.config, store), _weights(model, self._team)
        self._caches = [flat(tensor) for tensor in store.tensors]
        self._room = self._made_room(1024)

    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Runner."""
        return run_apart(spans, FEW, self.most, self.decode, partial(run_spans, self.model, self.store))

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def refresh(self) -> None:
        """See Runner. Matrices are views of what is computed with; norms and biases were copied."""
        self._weights = _weights(self.model, self._team)

    @torch.inference_mode()
    def decode(self, spans: Sequence[Span]) -> Tensor:
        """What `run_spans` gives, compiled; of at most `most` tokens."""
        from fromzero.kernels.compiling import first_use
        from fromzero.kernels.decoding import Step, decode

        model, config, ids = self.model, self.model.config, [i for span in spans for i in span.ids]
        places = [place for span in spans for place in range(span.start, span.start + len(span.ids))]
        tokens = Tokens(0, len(ids), model.device, positions_BT=torch.tensor([places]))
        x_BTD = model.embedded(model.embed(torch.tensor([ids])), tokens)
        angles = [_NONE, _NONE]
        if config.positions == "rotary":
            angles = [flat(torch.stack(model.angles(tokens, windowed))) for windowed in (False, True)]
        longest = max(len(span.pages) for span in spans)
        pages = [[*span.pages, *[0] * (longest - len(span.pages))] for span in spans for _ in span.ids]
        wanted, end = list[int](), 0
        for span in spans:
            end += len(span.ids)
            wanted += range(end - span.wanted, end)
        if len(self._room.scores) < self._team.threads * config.heads * (max(places) + 1):
            self._room = self._made_room(2 * max(places))
        room = self._room
        room.x[: x_BTD.numel()] = flat(x_BTD.float())
        numbers = [np.array(values, np.int64) for values in (places, pages, wanted)]
        step = Step(numbers[0], numbers[1].ravel(), tuple(angles), numbers[2])
        team = self._single if self._pace.alone() else self._team
        with first_use("the decoder"):
            started = perf_counter()
            team.run(decode, self._shape, self._weights, step, room, *self._caches)
        if team is self._team:
            self._pace.note(len(ids), perf_counter() - started)
        # NumPy, not torch: its threads would go on for milliseconds, in a loop that keeps ours from their cores.
        logits = room.logits[: len(wanted) * config.vocab_size] * np.float32(config.logit_scale)
        if (cap := config.logit_softcap) is not None:
            logits = np.tanh(logits / np.float32(cap)) * np.float32(cap)
        return torch.from_numpy(logits).view(len(wanted), config.vocab_size)

    def _made_room(self, longest: int) -> Any:
        from fromzero.kernels.decoding import Room
        from fromzero.kernels.narrow import room_for_rounded
        from fromzero.kernels.panels import TOGETHER

        config, rows, threads = self.model.config, self.most, self._team.threads
        vectors = -(-rows // TOGETHER) * TOGETHER + TOGETHER
        inside, head = self._weights.up.rows, config.head_size
        wide = max(config.width, config.heads * head, config.ffn_size)
        widths = self._weights.qkv.rows, config.heads * head, inside, config.ffn_size
        sizes = [vectors * config.width, threads * vectors * config.width, *(rows * width for width in widths)]
        sizes += [threads * config.heads * longest, rows * config.vocab_size]
        rounded = room_for_rounded(threads * vectors, wide)
        arrays: list[Any] = [np.zeros(size, np.float32) for size in sizes]
        return Room(*[*arrays, rounded])


class Pace:
    """Whether a step is one thread's: threads that wait for each other lose when another process has their cores."""

    LATE, STEPS, ALONE = 4.0, 3, 50
    """So many times the shortest step, so many steps on end: then so many by one thread, before all try again."""

    def __init__(self) -> None:
        self._best: dict[int, float] = {}
        self._late = self._left = 0

    def alone(self) -> bool:
        """Of the next step."""
        self._left = max(0, self._left - 1)
        return self._left > 0

    def note(self, rows: int, seconds: float) -> None:
        """A step of all threads took so long."""
        best = self._best[rows] = min(seconds, self._best.get(rows, seconds))
        self._late = self._late + 1 if seconds > self.LATE * best else 0
        if self._late >= self.STEPS:
            self._late, self._left = 0, self.ALONE + 1


class Team:
    """Threads that run one kernel at once; it gets which of them it is, how many they are, and where they meet."""

    def __init__(self, threads: int) -> None:
        self.threads, self._lock = threads, Lock()
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "kernel")

    def run(self, kernel: Any, *arguments: Any) -> None:
        """Run it on all of them, this one included."""
        others, gate = list[Future[None]](), np.zeros(8, np.int64)  # a line of the cache to itself
        with self._lock:
            try:
                for number in range(1, self.threads):
                    others.append(self._pool.submit(kernel, number, self.threads, gate, *arguments))
                kernel(0, self.threads, gate, *arguments)
            except BaseException:  # Ctrl-C: the others, who wait for this thread where they meet, come to their end
                while not all(other.done() for other in others):
                    gate[0] += 1
                    sleep(0.0001)
                raise
            for other in others:
                other.result()


def flat(tensor: Tensor) -> Array:
    """The same memory as a NumPy array of one dimension, bfloat16 as uint16."""
    tensor = tensor.detach().contiguous().flatten()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _check(model: Transformer, store: PageStore) -> None:
    config, dtypes = model.config, {model.compute_dtype, *(tensor.dtype for tensor in store.tensors)}
    usual = config.kind == "decoder" and config.norm_placement == "pre" and not config.parallel
    special = config.latent or config.experts or config.sinks or config.attention_softcap or config.qk_norm == "full"
    if not usual or special or config.positions in ("alibi", "relative"):
        raise UnfitError("its shape has parts that the compiled decoder lacks")
    if config.head_size % 16 or any(n % 32 for n in (config.width, config.ffn_size, config.heads * config.head_size)):
        raise UnfitError("a size is no multiple of 32, or a head's width none of 16")
    if next(adapters(model), None):
        raise UnfitError("it has adapters that are not merged")
    if model.device.type != "cpu" or not dtypes <= {torch.float32, torch.bfloat16}:
        raise UnfitError("it does not compute in float32 or bfloat16 on a CPU")


def _shape(config: ModelConfig, store: PageStore) -> Any:
    from fromzero.kernels.decoding import ACTIVATIONS, Shape

    return Shape(
        layers=config.layers, width=config.width, heads=config.heads, kv_heads=config.key_value_heads,
        head_width=config.head_size, hidden=config.ffn_size, gated=config.gated,
        activation=ACTIVATIONS[config.activation], rms=config.norm == "rms", eps=config.norm_eps,
        scale=config.attention_scale or config.head_size**-0.5, rotary=config.positions == "rotary",
        head_norms=config.qk_norm == "head", page=store.size, slots=store.tensors[0].shape[1],
    )  # fmt: skip


def _weights(model: Transformer, team: Team) -> Any:
    from fromzero.kernels.decoding import Weights

    blocks: list[Any] = list(model.blocks)
    attentions, feeds, config = [b.attention for b in blocks], [b.feed_forward for b in blocks], model.config
    windows = [config.window or 0 if config.windowed(layer) else 0 for layer in range(config.layers)]

    def stacked(layers: list[list[Any]]) -> Any:
        matrices = [m if isinstance(m, QuantizedMatrix) else m.weight for layer in layers for m in layer]
        return _stacked(matrices, [m.bias for layer in layers for m in layer], len(layers), model.compute_dtype, team)

    return Weights(
        qkv=stacked([[a.query, a.key, a.value] for a in attentions]),
        output=stacked([[a.output] for a in attentions]),
        up=stacked([[f.up] if f.gate is None else [f.gate, f.up] for f in feeds]),
        down=stacked([[f.down] for f in feeds]),
        head=_stacked([model.head_weight], [model.head.bias], 1, model.compute_dtype, team),
        attention_norm=_norms([block.attention_norm for block in blocks]),
        feed_forward_norm=_norms([block.feed_forward_norm for block in blocks]),
        final_norm=_norms([model.final_norm]),
        query_norm=_norms([a.query_norm for a in attentions])[0],
        key_norm=_norms([a.key_norm for a in attentions])[0],
        windows=np.array(windows, np.int64),
    )


def _norms(norms: Sequence[Norm | None]) -> tuple[Array, Array]:
    """Scales and shifts, layer after layer."""
    scales = [norm.weight for norm in norms if norm is not None]
    return _joined(scales), _joined([norm.bias for norm in norms if norm is not None and norm.bias is not None])


def _joined(vectors: Sequence[Tensor]) -> Array:
    return np.concatenate([flat(vector.float()) for vector in vectors] or [_NONE])


def _stacked(
    matrices: Sequence[Matrix], biases: Sequence[Tensor | None], layers: int, dtype: torch.dtype, team: Team
) -> Any:
    """Matrices one under the other, as many for each layer; their modules keep views of that. Raises UnfitError."""
    from fromzero.kernels.products import Matrix as Stack

    bias = _joined([bias for bias in biases if bias is not None])
    kept = [matrix for matrix in matrices if isinstance(matrix, QuantizedMatrix)]
    if not kept:
        weights = [cast(Tensor, matrix) for matrix in matrices]
        for given in biases:
            if given is not None:  # torch adds biases of the weights' dtype
                given.data = given.data.to(dtype)
        rows, inputs = sum(map(len, weights)) // layers, weights[0].shape[1]
        return Stack(_one(weights, dtype), _HALVES, _HALVES, bias, rows, inputs, inputs, 32, 16)
    packed = kept[0].packed
    alike = {(p.bits, p.group, p.shape[1]) for p in (matrix.packed for matrix in kept)}
    if len(kept) < len(matrices) or len(alike) > 1 or packed.group % 32:
        raise UnfitError("matrices of one kind are kept in different ways, or in groups that are no multiple of 32")
    codes, scale = _one([m.codes for m in kept], room=64), _one([m.scale for m in kept], room=16).view(np.int16)
    minima = [m.minimum for m in kept if m.minimum is not None]
    minimum = _one(minima, room=16).view(np.int16) if minima else scale
    unit, apart = (32, 16) if packed.bits == 8 else (16, packed.group // 2)
    rows = sum(len(matrix.codes) for matrix in kept) // layers
    stack, first = Stack(codes, scale, minimum, bias, rows, packed.shape[1], packed.group, unit, apart), 0
    for matrix in kept:
        matrix.product = partial(_times, stack, first, team)
        first += len(matrix.codes)
    return stack


def _times(stack: Any, first: int, team: Team, x: Tensor, matrix: QuantizedMatrix) -> Tensor:
    """x W^T of many rows x: W is made anew for each product, which takes little time beside it."""
    from fromzero.kernels.products import widen_rows

    weight = torch.empty(matrix.packed.shape, dtype=x.dtype)
    team.run(widen_rows, stack, first, len(weight), flat(weight))
    return F.linear(x, weight)


def _one(tensors: Sequence[Tensor], dtype: torch.dtype | None = None, room: int = 0) -> Array:
    """Tensors one under the other in one of `dtype`, of which they become views; with room for more behind the end."""
    parts = [tensor.detach().to(dtype or tensor.dtype) for tensor in tensors]
    together = torch.cat([*(part.flatten() for part in parts), parts[0].new_zeros(room)])
    for tensor, part in zip(tensors, together.split([*(part.numel() for part in parts), room]), strict=False):
        tensor.data = part.view(tensor.shape)
    return flat(together)
