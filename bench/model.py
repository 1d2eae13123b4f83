"""Forward and backward passes of published families beside transformers, on the same weights and the same cores.

    python bench/model.py [--family NAME ...] [--rounds 9] [--save]

Small random models of each family's shape, written by `save_model` and read by transformers, with the attention and the
experts that it chooses by itself; logits and losses must agree. Both are in one process, so threads and allocator are
the same, and take turns. In bfloat16 transformers has its weights in it, as from_pretrained gives them (under autocast,
experts would stay in float32); fromzero has them in float32 and casts in each pass.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from common import core_count, fail, machine_lines, markdown_table, publish
from fromzero.device import keep_freed_memory
from fromzero.interop import load_any, save_model
from fromzero.model import Transformer
from fromzero.model.config import Experts, Latent, ModelConfig
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.model.presets import PRESETS

BATCH, LENGTH, VOCAB = 4, 256, 4096
Pass = Callable[[], Tensor]
# What makes a published shape small: one head of 64 channels for each 64 of the width, and experts to match.
SMALL: dict[str, Any] = {"vocab_size": VOCAB, "context": 512, "layers": 4, "width": 256, "heads": 4, "kv_heads": None}
SMALL |= {"head_width": None, "ffn_width": None, "dropout": 0.0}
GROUPED: dict[str, Any] = SMALL | {"kv_heads": 2, "head_width": 64, "ffn_width": 704}
SPARSE = Experts(count=8, active=2, width=352, balance="none")
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2-124m", SMALL),
    "llama": ("llama3-8b", GROUPED),
    "qwen3": ("qwen3-0.6b", GROUPED),
    "mixtral": ("mixtral-8x7b", GROUPED | {"experts": replace(SPARSE, width=None), "ffn_width": 352}),
    "gemma2": ("gemma2-2b", GROUPED | {"embedding_scale": 16.0, "window": 128}),
    "olmo2": ("olmo2-1b", GROUPED | {"kv_heads": 4}),
    "deepseek2": ("deepseek-v2-lite", SMALL | {
        "latent": Latent(kv_rank=64, nope_width=32, rope_width=32, value_width=64), "attention_scale": None,
        "rope_scaling": None, "experts": replace(SPARSE, shared=352, normalize=False, dense_layers=1),
    }),
    "bert": ("bert-base", SMALL | {"head_bias": True}),
    "t5": ("t5-small", SMALL | {"logit_scale": 1 / 16}),
}  # fmt: skip


def main() -> None:
    """All families, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(core_count())
    keep_freed_memory()
    rows = [row for family in arguments.family for row in bench(family, arguments.rounds)]
    header = ["family, dtype, pass", "fromzero CPU ms", "transformers CPU ms", "times as fast", "spread"]
    table, machine = markdown_table(header, rows), machine_lines(transformers=transformers.__version__)
    shape = f"{BATCH} x {LENGTH} tokens, width 256, 4 layers, {VOCAB} ids; medians of {arguments.rounds} rounds."
    publish("model", "Models beside transformers", f"{shape}\n\n{table}", machine, arguments.save)


def bench(family: str, rounds: int) -> list[list[str]]:
    """The rows of one family."""
    preset, changes = FAMILIES[family]
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        theirs = written(replace(PRESETS[preset], **changes), Path(name))
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
            models = load_any(Path(name), dtype), theirs.to(dtype)
            for what, make in {"forward": forward, "forward+backward": training}.items():
                ours, peer = (make(model, ids) for model in models)
                found, wanted = ours().float(), peer().float()  # which also warms both up
                if not (apart := float((found - wanted).norm() / wanted.norm())) <= tolerance:
                    fail(f"{family}: fromzero and transformers differ by {apart:.1e} of their size; nothing was timed")
                rows.append([f"{family}, {str(dtype).removeprefix('torch.')}, {what}", *timed(ours, peer, rounds)])
                print(*rows[-1], flush=True)
    return rows


def written(config: ModelConfig, folder: Path) -> Any:
    """Ours, random, in the folder (an encoder with the head for masked tokens); the same as transformers reads it."""
    kinds = {"encoder": partial(HeadedTransformer, heads=HeadConfig(masked=True)), "encoder_decoder": EncoderDecoder}
    with tempfile.TemporaryDirectory() as tokenizer:
        (Path(tokenizer) / "tokenizer.json").write_text("{}")
        save_model(kinds.get(config.kind, Transformer)(config), folder, Path(tokenizer), {})
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    settings = transformers.AutoConfig.from_pretrained(folder)
    settings.update({key: 0.0 for key, value in settings.to_dict().items() if "drop" in key and value})
    return getattr(transformers, settings.architectures[0]).from_pretrained(folder, config=settings)


def logits(model: Any, ids: Tensor) -> Tensor:
    """Of either side's model; an encoder-decoder writes what it reads."""
    ids = ids[:, :-1].contiguous()
    if isinstance(model, Transformer | EncoderDecoder):
        return model(ids, ids) if isinstance(model, EncoderDecoder) else model(ids)
    given = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(ids, **given, use_cache=False).logits  # type: ignore[no-any-return]


def forward(model: Any, ids: Tensor) -> Pass:
    """Logits, without gradients."""
    model.eval()
    return torch.no_grad()(lambda: logits(model, ids))


def training(model: Any, ids: Tensor) -> Pass:
    """The loss, after its gradients were made."""
    model.train()

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(logits(model, ids).flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return step


def timed(ours: Pass, theirs: Pass, rounds: int) -> list[str]:
    """Median milliseconds of both, and the median and the spread of the ratio within a round."""
    seconds: dict[Pass, list[float]] = {ours: [], theirs: []}
    for number in range(rounds):
        for step in (ours, theirs) if number % 2 else (theirs, ours):
            started = time.process_time()
            step()
            seconds[step].append(time.process_time() - started)
    ratios = sorted(peer / mine for mine, peer in zip(*seconds.values(), strict=True))
    medians = [f"{statistics.median(times) * 1e3:.0f}" for times in seconds.values()]
    return [*medians, f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


if __name__ == "__main__":
    main()
