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
from fromzero.inference.classifying import class_probabilities, like_lengths
from fromzero.interop.download import find_model
from fromzero.interop.heads import numbered
from fromzero.interop.huggingface import load_any
from fromzero.interop.weights import read_json
from fromzero.model import Transformer
from fromzero.model.heads import HeadConfig, HeadedTransformer, Pooling, pool
from fromzero.tokenizer import Tokenizer, load_tokenizer


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
        for numbers, ids_BT, keep_BT in like_lengths(rows, self.model.device):
            hidden_BTD = Transformer.hidden(self.model, ids_BT, keep_BT=keep_BT)
            vectors_ND[numbers] = F.normalize(pool(hidden_BTD, keep_BT, self.pooling).float(), dim=-1).cpu()
        return vectors_ND

    @property
    def has_classes(self) -> bool:
        """Whether the model tells classes of texts apart."""
        model = self.model
        return isinstance(model, HeadedTransformer) and model.classifier is not None and not model.heads.per_token

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; those without one are called as in transformers."""
        heads = self.model.heads if isinstance(self.model, HeadedTransformer) else HeadConfig()
        return heads.labels or numbered(heads.classes)

    def classify(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Probabilities of the classes (N, C) of texts as ids, for a model that has some."""
        assert isinstance(self.model, HeadedTransformer)
        return class_probabilities(self.model, rows)

    def _cut(self, ids: list[int]) -> list[int]:
        """Not longer than the model was made for, with what ends a text kept; an empty text is one unknown token."""
        ends = [self.tokenizer.special_tokens[text] for text in self.tokenizer.suffix]
        return ids if 0 < len(ids) <= self.longest else [*(ids or [0])[: self.longest - len(ends)], *ends]
