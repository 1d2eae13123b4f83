"""BERT's heads: which there are in a file, and which of transformers' classes has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.model.heads import HeadConfig

# (masked, pooler, has classes, one for each token) -> class
_CLASSES = {
    (False, False, False, False): "BertModel",
    (False, True, False, False): "BertModel",
    (True, False, False, False): "BertForMaskedLM",
    (True, True, True, False): "BertForPreTraining",
    (False, True, True, False): "BertForSequenceClassification",
    (False, False, True, True): "BertForTokenClassification",
}


def architecture_of(heads: HeadConfig, head_bias: bool) -> dict[str, Any] | None:
    """The settings in config.json for these heads, or None where transformers has no such class."""
    known = _CLASSES.get((heads.masked, heads.pooler, heads.classes > 0, heads.per_token))
    if known is None or heads.pooling != "first" or head_bias != heads.masked:
        return None
    labels = {str(i): f"LABEL_{i}" for i in range(heads.classes)}
    return {"architectures": [known], "id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}


def heads_in(shapes: Mapping[str, Sequence[int]]) -> HeadConfig:
    """The heads of the model whose tensors these are."""
    classifier = next(
        (shapes[name] for name in ("cls.seq_relationship.weight", "classifier.weight") if name in shapes), ()
    )
    pooler = "bert.pooler.dense.weight" in shapes
    classes = classifier[0] if classifier else 0
    masked = "cls.predictions.transform.dense.weight" in shapes
    return HeadConfig(masked=masked, pooler=pooler, classes=classes, per_token=classes > 0 and not pooler)
