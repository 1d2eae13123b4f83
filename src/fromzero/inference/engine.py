"""The engine: many requests at once, a step at a time.

Each step asks the scheduler what to compute, runs it through the model, and gives every sequence whose newest token was
computed its next one. It knows nothing of threads, time or networks: `streams` runs it for a server.
"""

from collections import Counter, deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from time import monotonic
from typing import Literal, cast

import torch
from torch import Tensor

from fromzero.device import DtypeName, total_memory_bytes
from fromzero.errors import UserError
from fromzero.inference.adapted import AdapterRunner
from fromzero.inference.answer import Answer
from fromzero.inference.paged import Model, PageStore, token_bytes
from fromzero.inference.pages import PagePool
from fromzero.inference.request import Logprob, Output, Overloaded, Request, Sequence, Span, Stats
from fromzero.inference.runners import Runner, pick_runner
from fromzero.inference.sampling import Constraint, Floats, Sampler
from fromzero.inference.scheduler import Scheduler
from fromzero.inference.sources import SourceRunner
from fromzero.inference.speculate import AheadHeads, Kind, Speculation, make_proposer
from fromzero.model import EncoderDecoder, Transformer
from fromzero.tokenizer import Tokenizer

CacheDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class EngineConfig:
    """How much the engine does at once."""

    dtype: DtypeName = "float32"
    """What `open_engine` keeps matrices in and computes in; bfloat16 takes half of the memory, and is less exact."""
    cache_tokens: int = 0
    """Tokens whose keys and values fit the cache, of all sequences; 0: for 8 of the longest, or what a quarter of the
    memory holds if that is less."""
    cache_dtype: CacheDtype = "auto"
    """What keys and values are kept in; auto: what the model computes in. int8 takes half of bfloat16's memory."""
    page_tokens: int = 16
    """Tokens of a page."""
    step_tokens: int = 512
    """Most tokens of a step: prompts are read in pieces of this, so that answers go on meanwhile."""
    running: int = 64
    """Most sequences at once."""
    queued: int = 256
    """Most sequences that wait; who comes then is told to try again later."""
    speculate: Kind = "none"
    """Who guesses tokens so that a step can do several: a look-up in the text so far, a draft model, or the model's own
    heads for further tokens. Answers stay the same."""
    draft: Path | None = None
    """The draft model: folder, GGUF file or name of a small model with the same tokenizer."""
    draft_tokens: int = 7
    """Most tokens to guess at once; they are fewer, or none, where that pays more."""

    def __post_init__(self) -> None:
        for name in ("page_tokens", "step_tokens", "running", "queued", "draft_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.cache_tokens < 0 or self.step_tokens < self.running:
            raise UserError(
                f"step_tokens ({self.step_tokens}) must be at least running ({self.running}), since a step has a token "
                f"of each, and cache_tokens ({self.cache_tokens}) at least 0"
            )

    def make_store(self, model: Model) -> PageStore:
        """Room for the keys and values of a model."""
        dtype = model.compute_dtype if self.cache_dtype == "auto" else getattr(torch, self.cache_dtype)
        device = model.device
        cuda = device.type == "cuda"
        memory = torch.cuda.get_device_properties(device).total_memory if cuda else total_memory_bytes()
        tokens = self.cache_tokens or min(8 * model.config.context, memory // 4 // token_bytes(model.config, dtype))
        return PageStore(model, -(-tokens // self.page_tokens), self.page_tokens, dtype, device)


class Engine:
    """Requests in, outputs out."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        config: EngineConfig | None = None,
        draft: Transformer | None = None,
    ) -> None:
        """draft: the model that `config.draft` names."""
        self.model, self.tokenizer, self.config = model, tokenizer, config or EngineConfig()
        if model.config.kind == "encoder":
            raise UserError("an encoder writes no text; the engine needs a decoder, or an encoder-decoder")
        self.store = self.config.make_store(model)
        self.pool = PagePool(self.store.pages, self.store.size)
        self.runner: Runner
        if isinstance(model, EncoderDecoder):
            self.runner = SourceRunner(model, self.store)
        else:
            self.runner = pick_runner(model, self.store)
        self._adapted = AdapterRunner(cast(Transformer, model), self.store)
        self.scheduler = Scheduler(self.pool, self.config.step_tokens, self.config.running)
        self._answers: dict[str, dict[Sequence, Answer]] = {}
        self._arrivals = 0
        self._read: dict[str, list[Logprob | None]] = {}
        self._counts = self.scheduler.stats
        self.speculation = self._speculation(self.store, draft)

    @property
    def stats(self) -> Stats:
        """How it stands, as a copy; from any thread."""
        pool, scheduler, counts = self.pool, self.scheduler, self._counts
        drafted_at = self.speculation.drafted.copy() if self.speculation else Counter()
        accepted_at = self.speculation.accepted.copy() if self.speculation else Counter()
        return replace(
            counts,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_held=pool.count - pool.free,
            finished=counts.finished.copy(),
            drafted=drafted_at.total(),
            accepted=accepted_at.total(),
            drafted_at=drafted_at,
            accepted_at=accepted_at,
        )

    @property
    def busy(self) -> bool:
        """Whether there is something to compute."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    def submit(self, request: Request, constraint: Constraint | None = None) -> None:
        """Put a request into the queue. Raises UserError for one that can't be answered, Overloaded when it is full."""
        self._check(request)
        if constraint is not None and request.sampling.ignore_end:
            raise UserError("an answer that follows a rule ends when it is whole; leave out ignore_end")
        if not self._has_room(request):
            raise Overloaded(f"{len(self.scheduler.waiting)} requests wait already; try again later")
        answers = dict[Sequence, Answer]()
        for index in range(request.sampling.n):
            seed = request.sampling.seed
            config = replace(request.sampling, seed=None if seed is None else (seed + index) % 2**63)
            sampler = Sampler(config, request.prompt, constraint and constraint.copy())
            sequence = Sequence(request, index, sampler, self._arrivals, list(request.prompt))
            sequence.timing.queued = monotonic()
            self._arrivals += 1
            answers[sequence] = Answer(request, self.tokenizer, index)
        self._answers[request.id] = answers  # from here on nothing can fail
        for sequence in answers:
            self.scheduler.add(sequence)

    def cancel(self, request: str) -> None:
        """Nobody wants its answers any more; its pages are free at once. Unknown ids are passed over."""
        for sequence in self._answers.pop(request, {}):
            self.scheduler.remove(sequence)
            self._counts.finished["cancelled"] += 1
        self._read.pop(request, None)
        self.runner.forget(request)

    def step(self) -> list[Output]:
        """Compute once, and say what that adds to the answers. One that can't go on (UserError) fails alone."""
        if self.speculation is not None:
            self.speculation.draft(self.scheduler.running)
        planned = self.scheduler.plan()
        if not planned:
            return []
        self._counts.steps += 1
        now = monotonic()
        for sequence, _ in planned:
            sequence.timing.started = sequence.timing.started or now
        logits_NV = self._compute([span for _, span in planned]).numpy()  # whose rows are cheaper than torch's
        seconds = monotonic() - now
        outputs, place = [], 0
        for sequence, span in planned:
            rows_NV, place = logits_NV[place : place + span.wanted], place + span.wanted
            try:
                output = self._go_on(sequence, span, rows_NV) if span.wanted else None
            except UserError as error:
                output = Output(sequence.request.id, sequence.index, reason="error", message=str(error))
            kept = len(sequence.tokens) - 1 - span.start  # the newest is still to be computed
            self.scheduler.computed(sequence, min(len(span.ids), kept))
            if output is not None:
                outputs.append(self._finished(sequence, output) if output.reason else output)
        if self.speculation is not None:
            self.speculation.watch(planned, seconds)
        return outputs

    def refresh(self) -> None:
        """The model's weights were changed in place, while nothing was being answered: forget what was computed."""
        if self.busy:
            raise RuntimeError("weights must not change while answers are being made")
        self.pool.forget_all()
        self.runner.refresh()

    def answers(self, requests: Ids[Request]) -> dict[tuple[str, int], list[Output]]:
        """Everything about these requests, computed to their end: outputs by request and index."""
        found: dict[tuple[str, int], list[Output]] = {}
        coming = deque(requests)
        for request in coming:
            self._check(request)
        while coming or self.busy:
            while coming and self._has_room(coming[0]):
                self.submit(coming.popleft())
            for output in self.step():
                found.setdefault((output.request, output.index), []).append(output)
        return found

    def _speculation(self, store: PageStore, draft: Transformer | None) -> Speculation | None:
        config, context = self.config, self.model.config.context
        if isinstance(self.model, EncoderDecoder):
            if config.speculate != "none":
                raise UserError("speculation is for decoders; set speculate to none for an encoder-decoder")
            return None
        proposer = make_proposer(config.speculate, self.model, store, draft)
        if proposer is None:
            return None
        if isinstance(proposer, AheadHeads):
            self.runner = proposer
        return Speculation(proposer, config.draft_tokens, context)

    def _compute(self, spans: list[Span]) -> Tensor:
        adapted = any(span.adapter is not None for span in spans)
        return self._adapted.run(spans, self.runner.run) if adapted else self.runner.run(spans)

    def _has_room(self, request: Request) -> bool:
        return len(self.scheduler.waiting) + request.sampling.n <= self.config.queued

    def _check(self, request: Request) -> None:
        count, context, vocab = len(request.prompt), self.model.config.context, self.model.config.vocab_size
        reads = isinstance(self.model, EncoderDecoder)
        if not count:
            raise UserError("the prompt is empty; give at least one token")
        if count >= context:
            raise UserError(f"the prompt has {count} tokens and the model's context is {context}; shorten the prompt")
        if bool(request.source) != reads or len(request.source) > context:
            takes = f"takes a source of 1 to {context}" if reads else "is no encoder-decoder, and takes none"
            raise UserError(f"the source has {len(request.source)} tokens, and the model {takes}")
        for place, ids in (("prompt", request.prompt), ("source", request.source)):
            if wrong := next((token for token in ids if not 0 <= token < vocab), None):
                raise UserError(f"the {place} has the id {wrong}; the model knows 0 to {vocab - 1}")
        if request.adapter is not None and (reads or isinstance(self.runner, AheadHeads)):
            raise UserError("adapters are for decoders whose drafts are not made by heads of their own; leave them out")
        request.sampling.check_ids(vocab)
        longest = min(context, count + request.sampling.max_tokens)
        if longest > self.pool.count * self.pool.size:
            raise UserError(
                f"prompt and answer may reach {longest} tokens, and the cache holds {self.pool.count * self.pool.size};"
                " lower max_tokens, or raise cache_tokens"
            )
        if request.sampling.n > self.config.queued:
            raise UserError(f"n is {request.sampling.n}, and no more than {self.config.queued} answers can wait")
        if request.id in self._answers:
            raise UserError(f"a request '{request.id}' is being answered already")

    def _go_on(self, sequence: Sequence, span: Span, logits_NV: Floats) -> Output | None:
        """The next token of a sequence, or several if it drafted well, and what they mean for its text."""
        request = sequence.request
        answer = self._answers[request.id][sequence]
        if request.prompt_logprobs and span.start < sequence.prompt_length:
            self._note_prompt(request, span, logits_NV)
            if span.start + len(span.ids) < len(sequence.tokens):
                return None
        outputs, tried, right = list[Output](), sequence.draft, 0
        for logits_V, guess in zip(logits_NV[-1 - len(tried) :], [*tried, None], strict=True):
            outputs.append(self._add(sequence, answer, logits_V))
            right += sequence.tokens[-1] == guess
            if outputs[-1].reason or sequence.tokens[-1] != guess:
                break
        if self.speculation is not None:
            self.speculation.note(sequence, len(tried), right)
        output = reduce(joined, outputs)
        timing, counts = sequence.timing, self._counts
        timing.last = monotonic()
        counts.generated_tokens += len(output.tokens)
        if not timing.first:
            timing.first = timing.last
            counts.prompt_tokens += 0 if sequence.index else sequence.prompt_length
            read = tuple(self._read.get(request.id, ()))
            output = replace(output, cached=sequence.cached, prompt_logprobs=read)
        return output

    def _add(self, sequence: Sequence, answer: Answer, logits_V: Floats) -> Output:
        """Choose a token."""
        token, top = sequence.sampler.choose(logits_V, answer.forbidden), sequence.request.sampling.logprobs
        drawn = sequence.request.drawn
        temperature = (drawn and sequence.request.sampling.temperature) or 1.0
        noted = () if top is None else noted_of(logits_V, token, top, temperature)
        sequence.sampler.accept(token)
        sequence.tokens.append(token)
        full = len(sequence.tokens) >= self.model.config.context
        output = answer.add(token, noted, "stop" if sequence.sampler.done else "context" if full else None)
        return replace(output, logprobs=noted) if drawn and output.logprobs != noted else output

    def _note_prompt(self, request: Request, span: Span, logits_NV: Floats) -> None:
        noted = self._read.setdefault(request.id, [None])
        first, end = max(len(noted), span.start + 1), min(span.start + len(span.ids) + 1, len(request.prompt))
        rows_NV = logits_NV[first - 1 - span.start : end - 1 - span.start]  # what comes next is a place further
        noted += logprobs_of(rows_NV, request.prompt[first:end], request.sampling.logprobs or 0)

    def _finished(self, sequence: Sequence, output: Output) -> Output:
        """Its last output, with what is known at the end."""
        self._counts.finished[output.reason or "error"] += 1
        self.scheduler.remove(sequence)
        del self._answers[output.request][sequence]
        if not self._answers[output.request]:
            self.cancel(output.request)
        return replace(output, cached=sequence.cached, timing=sequence.timing)


def noted_of(logits_V: Floats, token: int, top: int, temperature: float) -> tuple[Logprob, ...]:
    """Of one token at a temperature, and of the `top` likeliest."""
    if top:
        return logprobs_of(logits_V[None] / temperature, [token], top)
    from fromzero.kernels.draw import logprob

    return (Logprob(token, logprob(logits_V, temperature, token)),)


def logprobs_of(logits: Floats, tokens: Ids[int], top: int) -> tuple[Logprob, ...]:
    """Of a token in each row (N, V), and of the `top` likeliest."""
    logits_NV = torch.from_numpy(logits)
    logprobs_NV = logits_NV.log_softmax(-1)
    values, ids = (found.tolist() for found in logprobs_NV.topk(min(top, logprobs_NV.shape[1])))
    chosen = logprobs_NV.gather(1, torch.tensor(tokens, dtype=torch.int64)[:, None])[:, 0].tolist()
    best = [tuple(zip(*row, strict=True)) for row in zip(ids, values, strict=True)]
    return tuple(map(Logprob, tokens, chosen, best))


def joined(first: Output, second: Output) -> Output:
    """What two outputs of an answer add, one behind the other."""
    tokens, logprobs = first.tokens + second.tokens, first.logprobs + second.logprobs
    return replace(second, tokens=tokens, text=first.text + second.text, logprobs=logprobs)
