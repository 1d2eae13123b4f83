"""Texts -> probabilities of classes, by a model that was tuned to tell them apart."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fromzero.device import DeviceName, pick_device
from fromzero.errors import UserError
from fromzero.inference.opening import check_model
from fromzero.interop.heads import numbered
from fromzero.interop.huggingface import load_any
from fromzero.interop.weights import read_json
from fromzero.model.heads import HeadedTransformer
from fromzero.tokenizer import Tokenizer, load_tokenizer

BATCH_TOKENS = 8192
TOKENIZER_CONFIG = "tokenizer_config.json"

Side = Literal["left", "right"]


class Classifier:
    """A model with a head for classes of texts, and what it takes of a text."""

    def __init__(self, model: HeadedTransformer, tokenizer: Tokenizer, longest: int, truncate: Side = "right") -> None:
        """longest: tokens of a text. truncate: the side at which what is longer loses some."""
        self.model, self.tokenizer, self.longest, self.truncate = model, tokenizer, longest, truncate
        self.labels = model.heads.labels or numbered(model.heads.classes)

    @classmethod
    def open(cls, folder: Path, device: DeviceName = "auto") -> "Classifier":
        """From a model folder; lengths and sides are those of its tokenizer_config.json. Raises UserError."""
        model = load_any(path := check_model(folder))
        if not isinstance(model, HeadedTransformer) or not model.heads.classes or model.heads.per_token:
            raise UserError(f"{folder} tells no classes of texts apart; make a model that does, with finetune classify")
        config = read_json(file) if (file := path / TOKENIZER_CONFIG).is_file() else {}
        longest, side = config.get("model_max_length"), config.get("truncation_side")
        longest = min(longest, model.config.context) if isinstance(longest, int) else model.config.context
        tokenizer = load_tokenizer(path)
        return cls(model.to(pick_device(device)).eval(), tokenizer, longest, "left" if side == "left" else "right")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Probabilities (N, C), fp32 on the CPU."""
        return class_probabilities(self.model, self.encode(texts)[0])

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Ids of each text with what the tokenizer puts around it, not longer than `longest`; how many were cut."""
        rows = self.tokenizer.encode_batch(texts, add_special_tokens=True)
        return [self._cut(ids) for ids in rows], sum(len(ids) > self.longest for ids in rows)

    def _cut(self, ids: list[int]) -> list[int]:
        """What is around a text is kept; one without any token is one unknown token."""
        if len(ids) <= self.longest:
            return ids or [0]
        before, after = len(self.tokenizer.prefix), len(self.tokenizer.suffix)
        inner, room = ids[before : len(ids) - after], max(0, self.longest - before - after)
        inner = inner[len(inner) - room :] if self.truncate == "left" else inner[:room]
        return [*ids[:before], *inner, *ids[len(ids) - after :]]


@torch.inference_mode()
def class_probabilities(model: HeadedTransformer, rows: Sequence[Sequence[int]]) -> Tensor:
    """Probabilities of the classes (N, C) of texts as ids, fp32 on the CPU."""
    model.eval()
    found_NC = torch.zeros(len(rows), model.heads.classes)
    for numbers, ids_BT, keep_BT in like_lengths(rows, model.device):
        logits_BC = model.outputs(ids_BT, keep_BT=keep_BT).classes
        assert logits_BC is not None
        found_NC[numbers] = logits_BC.float().softmax(-1).cpu()
    return found_NC


def like_lengths(
    rows: Sequence[Sequence[int]], device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """Batches of rows of like length, so that little is padding: which rows, ids, and what is real (None: all is)."""
    order, start = sorted(range(len(rows)), key=lambda i: len(rows[i])), 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(rows[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
            end += 1
        numbers = order[start:end]
        width = len(rows[numbers[-1]])
        ids_BT = torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in numbers], device=device)
        keep_BT = torch.arange(width, device=device) < torch.tensor([[len(rows[i])] for i in numbers], device=device)
        yield numbers, ids_BT, None if bool(keep_BT.all()) else keep_BT
        start = end
