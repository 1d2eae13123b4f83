"""Texts -> vectors whose cosine says how close they are in meaning, by an encoder such as MiniLM.

A text's vector is the mean (or what the model's own settings say) of what the model makes of its tokens, scaled to
length 1 (Reimers and Gurevych 2019, section 3). It knows the languages that the model knows: minilm-l6-v2, English.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.device import DeviceName, pick_device
from fromzero.errors import UserError
from fromzero.interop.download import find_model
from fromzero.interop.huggingface import load_any
from fromzero.interop.weights import read_json
from fromzero.model import Transformer
from fromzero.model.heads import HeadedTransformer, Pooling, pool
from fromzero.tokenizer import Tokenizer, load_tokenizer

BATCH_TOKENS = 8192


class Embedder:
    """A model that makes vectors of texts."""

    def __init__(self, model: Path, device: DeviceName = "auto") -> None:
        """Load it from a folder, or by the name of a downloaded one. Raises UserError."""
        self.folder = find_model(model)
        loaded = load_any(self.folder)
        if not isinstance(loaded, Transformer):
            raise UserError(f"{model} is an encoder-decoder; embeddings need an encoder or a decoder")
        self.model, self.tokenizer = loaded.to(pick_device(device)).eval(), load_tokenizer(self.folder)
        files = [self.folder / name for name in ("1_Pooling/config.json", "sentence_bert_config.json")]
        pooling, sentence = (read_json(file) if file.exists() else {} for file in files)
        ways: dict[str, Pooling] = {"pooling_mode_cls_token": "first", "pooling_mode_lasttoken": "last"}
        self.pooling: Pooling = next((how for name, how in ways.items() if pooling.get(name) is True), "mean")
        longest = sentence.get("max_seq_length")
        self.longest = min(longest if isinstance(longest, int) and longest > 2 else 512, loaded.config.context)

    @classmethod
    def over(cls, model: Transformer, tokenizer: Tokenizer) -> "Embedder":
        """One that takes the mean of what a model, loaded already, makes of its tokens."""
        made = cls.__new__(cls)
        made.model, made.tokenizer, made.pooling, made.longest = model, tokenizer, "mean", model.config.context
        return made

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors (N, D) of length 1, fp32 on the CPU; of a text that is too long, its beginning counts."""
        return self.embed([self._cut(ids) for ids in self.tokenizer.encode_batch(texts, add_special_tokens=True)])

    @torch.inference_mode()
    def embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The same of texts as ids, none empty or longer than `longest`."""
        vectors_ND = torch.zeros(len(rows), self.model.config.width)
        order, start = sorted(range(len(rows)), key=lambda i: len(rows[i])), 0
        while start < len(order):  # those of like length together, so that little is padding
            end = start + 1
            while end < len(order) and len(rows[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
                end += 1
            vectors_ND[order[start:end]] = self._batch([rows[i] for i in order[start:end]])
            start = end
        return vectors_ND

    @property
    def has_classes(self) -> bool:
        """Whether the model tells classes of texts apart."""
        model = self.model
        return isinstance(model, HeadedTransformer) and model.classifier is not None and not model.heads.per_token

    @torch.inference_mode()
    def classify(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Probabilities of the classes (N, C) of texts as ids, for a model that has some."""
        assert isinstance(self.model, HeadedTransformer)
        logits = [self.model.outputs(torch.tensor([row], device=self.model.device)).classes for row in rows]
        return torch.cat([part.float().softmax(-1) for part in logits if part is not None]).cpu()

    def _cut(self, ids: list[int]) -> list[int]:
        """Not longer than the model was made for, with what ends a text kept; an empty text is one unknown token."""
        ends = [self.tokenizer.special_tokens[text] for text in self.tokenizer.suffix]
        return ids if 0 < len(ids) <= self.longest else [*(ids or [0])[: self.longest - len(ends)], *ends]

    def _batch(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width, device = max(map(len, rows)), self.model.device
        ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        keep_BT = torch.arange(width, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
        padding = None if bool(keep_BT.all()) else keep_BT
        hidden_BTD = Transformer.hidden(self.model, ids_BT, keep_BT=padding)
        return F.normalize(pool(hidden_BTD, keep_BT, self.pooling).float(), dim=-1).cpu()
