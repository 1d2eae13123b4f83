"""The engine beside transformers' generate and llama.cpp, on the same weights and cores, by turns.

    python bench/inference.py [--llama-cpp FOLDER] [--rounds 5] [--save]

SmolLM2-135M (`fromzero download smollm2-135m-instruct`), greedy, answers of fixed lengths. In 4 bits, llama.cpp reads
the GGUF file (Q4_1) and ours are the same weights rounded to 4 bits in groups of 32, the embedding in 8 as there. A
round measures all sides in turn; figures are medians of rounds, ratios are medians of the ratios within a round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from common import core_count, machine_lines, markdown_table, publish
from fromzero.inference import SamplingConfig
from fromzero.inference.compiled import Team
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Request
from fromzero.interop import load_any, save_model
from fromzero.interop.download import find_model
from fromzero.kernels.compiling import lean
from fromzero.kernels.lanes import load, multiply_add, spread, total, zeros
from fromzero.model import Transformer
from fromzero.model.quantized import put, round_to_nearest
from fromzero.tokenizer import load_tokenizer
from llama_cpp import LlamaCpp

MODEL, DECODED, PREFILLED, SLOTS = "smollm2-135m-instruct", 64, 512, 32
Rates = dict[str, Callable[[], float]]
"""Who -> what does it once and gives tokens a second (or seconds)."""


def main() -> None:
    """All rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, help="folder with libllama and ggml's libraries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(core_count())
    file, rounds = find_model(Path(MODEL)), arguments.rounds
    peer = None
    if arguments.llama_cpp:
        peer = LlamaCpp(arguments.llama_cpp, file, SLOTS, 1024)
    ours = {name: engine(file, name) for name in ("4 bits", "bfloat16", "float32")}
    theirs = {ours[name]: hugging(file, getattr(torch, name)) for name in ("bfloat16", "float32")}
    four, bf16, fp32 = ours.values()
    rows = []
    for name, rates in {
        "decode, 4 bits, tokens/s": {"fromzero": partial(decode, four)} | by(peer, decoded_by),
        "decode, bfloat16": {"fromzero": partial(decode, bf16), "transformers": partial(generate, theirs[bf16])},
        "decode, float32": {"fromzero": partial(decode, fp32), "transformers": partial(generate, theirs[fp32])},
        "prefill of 512, bfloat16": {
            "fromzero": partial(prefill, bf16), "transformers": partial(read_prompt, theirs[bf16])
        } | by(peer, read_by),
        "prefill of 512, 4 bits": {"fromzero": partial(prefill, four)} | by(peer, read_by),
        "32 requests, bfloat16": {
            "fromzero": partial(serve, bf16), "one by one": partial(serve, bf16, together=False),
            "transformers": partial(generate_batch, theirs[bf16]),
        } | by(peer, slots_of),
        "32 requests, 4 bits": {"fromzero": partial(serve, four)} | by(peer, slots_of),
        "1 / seconds to the first token, 1,000 of 1,016 known": {
            "fromzero": partial(first_token, bf16, hit=True), "none known": partial(first_token, bf16, hit=False)
        },
    }.items():  # fmt: skip
        rows += measured(name, rates, rounds)
        print(*rows[-1], flush=True)
    rows += [bandwidth_row(name, engine, rounds) for name, engine in ours.items()]
    versions = {"transformers": transformers.__version__} | ({"llama.cpp": peer.version} if peer else {})
    header = ["measure", "fromzero", "peer", "peer's", "times as fast", "spread"]
    body = f"Tokens a second, but where it says otherwise; medians of {rounds} rounds."
    body += f"\n\n{markdown_table(header, rows)}\n\n"
    body += "\n".join(f"- {name}: {engine.runner.why}" for name, engine in ours.items())  # type: ignore[attr-defined]
    publish("inference", "Inference beside transformers and llama.cpp", body, machine_lines(**versions), arguments.save)


def measured(name: str, rates: Rates, rounds: int) -> list[list[str]]:
    """A row for each peer: medians, and the median and spread of the ratio within a round."""
    found: dict[str, list[float]] = {who: [] for who in rates}
    for rate in rates.values():
        rate()  # compiles, and brings everything into memory
    for number in range(rounds):
        for who in list(rates)[:: 1 if number % 2 else -1]:
            found[who].append(rates[who]())
    rows, mine = [], found.pop("fromzero")
    for who, others in found.items() or [("none", mine)]:
        ratios = sorted(a / b for a, b in zip(mine, others, strict=True))
        numbers = f"{statistics.median(mine):.1f}", who, f"{statistics.median(others):.1f}"
        rows.append([name, *numbers, f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"])
    return rows


def engine(file: Path, kind: str) -> Engine:
    """Ours, with weights of one kind."""
    model = load_any(file, torch.bfloat16 if kind != "float32" else torch.float32).eval()
    assert isinstance(model, Transformer)
    if kind == "4 bits":
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear | nn.Embedding):
                bits: Any = 4 if isinstance(module, nn.Linear) else 8
                put(model, name, round_to_nearest(module.weight.detach().float(), bits, 32))
    return Engine(model, load_tokenizer(file), EngineConfig(cache_tokens=SLOTS * 1024, step_tokens=512))


def hugging(file: Path, dtype: torch.dtype) -> Any:
    """Theirs, with the same weights, as from_pretrained gives them."""
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as tokenizer:
        (Path(tokenizer) / "tokenizer.json").write_text("{}")
        save_model(load_any(file), Path(name), Path(tokenizer), {})
        return transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype).eval()


def prompts(count: int, shortest: int, longest: int, seed: int) -> list[list[int]]:
    """Random ids, so that nothing is found in a cache."""
    chance = Random(seed)
    return [[chance.randrange(100, 40000) for _ in range(chance.randint(shortest, longest))] for _ in range(count)]


_fresh = iter(range(10**9))


def ask(engine: Engine, given: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Request]:
    """Requests for greedy answers of so many tokens."""
    plain = SamplingConfig(temperature=0, ignore_end=True)
    return [
        Request(str(next(_fresh)), tuple(ids), replace(plain, max_tokens=count))
        for ids, count in zip(given, counts, strict=True)
    ]


def decode(engine: Engine) -> float:
    """Tokens a second of one answer, without its prompt."""
    engine.submit(ask(engine, prompts(1, 64, 64, next(_fresh)), [DECODED + 1])[0])
    engine.step()
    started = time.perf_counter()
    while engine.busy:
        engine.step()
    return DECODED / (time.perf_counter() - started)


def prefill(engine: Engine) -> float:
    """Tokens a second of a prompt."""
    request = ask(engine, prompts(1, PREFILLED, PREFILLED, next(_fresh)), [1])
    started = time.perf_counter()
    engine.answers(request)
    return PREFILLED / (time.perf_counter() - started)


def load_of() -> tuple[list[list[int]], list[int]]:
    """What comes at once: prompts and lengths of answers, the same for all sides."""
    chance = Random(7)
    return prompts(SLOTS, 32, 256, 5), [chance.randint(32, 256) for _ in range(SLOTS)]


def serve(engine: Engine, together: bool = True) -> float:
    """Answer tokens a second of many requests; one by one, a quarter of them is enough to know."""
    given, counts = load_of()
    requests = ask(engine, given, counts)
    requests = [replace(request, tenant=request.id) for request in requests]  # none finds what another one computed
    started = time.perf_counter()
    for some in [requests] if together else [[request] for request in requests[:: SLOTS // 8]]:
        engine.answers(some)
    return sum(counts if together else counts[:: SLOTS // 8]) / (time.perf_counter() - started)


def first_token(engine: Engine, hit: bool) -> float:
    """Of an answer to a thousand tokens of a system prompt and a few more: 1 / seconds."""
    system, tenant = prompts(1, 1000, 1000, 11)[0], str(next(_fresh)) if not hit else "warm"
    if hit:
        engine.answers([replace(ask(engine, [[*system, 5]], [1])[0], tenant=tenant)])
    request = replace(ask(engine, [[*system, *prompts(1, 16, 16, next(_fresh))[0]]], [1])[0], tenant=tenant)
    started = time.perf_counter()
    engine.answers([request])
    return 1 / (time.perf_counter() - started)


@torch.inference_mode()
def generate(model: Any) -> float:
    """transformers, tokens a second of one answer, without its prompt."""
    ids = torch.tensor(prompts(1, 64, 64, next(_fresh)))
    times = []
    for count in (1, DECODED + 1):
        started = time.perf_counter()
        model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        times.append(time.perf_counter() - started)
    return DECODED / (times[1] - times[0])


@torch.inference_mode()
def read_prompt(model: Any) -> float:
    """transformers, tokens a second of a prompt."""
    ids = torch.tensor(prompts(1, PREFILLED, PREFILLED, next(_fresh)))
    started = time.perf_counter()
    model.generate(ids, max_new_tokens=1, do_sample=False)
    return PREFILLED / (time.perf_counter() - started)


@torch.inference_mode()
def generate_batch(model: Any) -> float:
    """transformers, all requests as one batch, padded on the left; what is over an answer's length does not count."""
    given, counts = load_of()
    longest = max(map(len, given))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in given])
    keep = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in given])
    most = max(counts)
    started = time.perf_counter()
    model.generate(ids, attention_mask=keep, max_new_tokens=most, min_new_tokens=most, do_sample=False)
    return sum(counts) / (time.perf_counter() - started)


def by(peer: LlamaCpp | None, rate: Callable[[LlamaCpp], float]) -> Rates:
    """What llama.cpp does, with its weights in 4 bits, if it is there."""
    return {"llama.cpp, 4 bits": partial(rate, peer)} if peer else {}


def decoded_by(peer: LlamaCpp) -> float:
    """Tokens a second of one answer, without its prompt."""
    peer.forget()
    token, started = peer.step([(0, prompts(1, 64, 64, next(_fresh))[0], 0)])[0], time.perf_counter()
    for number in range(DECODED):
        token = peer.step([(0, [token], 64 + number)])[0]
    return DECODED / (time.perf_counter() - started)


def read_by(peer: LlamaCpp) -> float:
    """Tokens a second of a prompt."""
    peer.forget()
    started = time.perf_counter()
    peer.step([(0, prompts(1, PREFILLED, PREFILLED, next(_fresh))[0], 0)])
    return PREFILLED / (time.perf_counter() - started)


def slots_of(peer: LlamaCpp) -> float:
    """Answer tokens a second of the requests, in parallel sequences."""
    given, counts = load_of()
    started = time.perf_counter()
    peer.answer(given, counts)
    return sum(counts) / (time.perf_counter() - started)


@lean
def read_all(thread: Any, threads: Any, gate: Any, x: Any, out: Any) -> None:
    """Add up a share of x."""
    a, b, one = zeros(), zeros(), spread(np.float32(1))
    for i in range(len(x) // 32 * thread // threads * 32, len(x) // 32 * (thread + 1) // threads * 32, 32):
        a, b = multiply_add(load(x, i), one, a), multiply_add(load(x, i + 16), one, b)
    out[thread] = total(a) + total(b)


def bandwidth_row(kind: str, engine: Engine, rounds: int) -> list[str]:
    """How much of the memory's bandwidth decoding makes use of: bytes of weights x tokens a second, beside reading."""
    assert isinstance(engine.model, Transformer)
    kept = {tensor.data_ptr(): tensor.nbytes for tensor in (*engine.model.parameters(), *engine.model.buffers())}
    size = sum(kept.values())  # the embedding is the head, too
    x, out, team = np.ones(2**26, np.float32), np.zeros(64, np.float32), Team(core_count())

    def reading() -> float:
        started = time.perf_counter()
        team.run(read_all, x, out)
        return x.nbytes / (time.perf_counter() - started) / 1e9

    rates: Rates = {"fromzero": lambda: decode(engine) * size / 1e9, "reading": reading}
    return measured(f"decode, {kind}, GB/s of weights ({size / 1e6:.0f} MB)", rates, rounds)[0]


if __name__ == "__main__":
    main()
