"""Heads in published layouts: which there are in a file, and which of transformers' classes has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.model.heads import HeadConfig

# Of BERT: (masked, pooler, has classes, one for each token) -> class
_BERT = {
    (False, False, False, False): "BertModel",
    (False, True, False, False): "BertModel",
    (True, False, False, False): "BertForMaskedLM",
    (True, True, True, False): "BertForPreTraining",
    (False, True, True, False): "BertForSequenceClassification",
    (False, False, True, True): "BertForTokenClassification",
}
# Of decoders: families whose class for texts has a matrix `score` on the last token.
_DECODERS = {name: f"{name}ForSequenceClassification" for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "GPT2")}


def architecture_of(heads: HeadConfig, head_bias: bool, published: str) -> dict[str, Any] | None:
    """The settings in config.json for these heads, or None where transformers has no such class.

    published: the family's class without heads for classes.
    """
    if heads == HeadConfig() and published != "BertModel":
        return {}
    labels = {str(i): label for i, label in enumerate(heads.labels or numbered(heads.classes))}
    said = {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
    if published != "BertModel":
        known = _DECODERS.get(published.removesuffix("ForCausalLM").removesuffix("LMHeadModel"))
        return (
            {"architectures": [known], **said} if known and heads == last_token(heads.labels, heads.classes) else None
        )
    known = _BERT.get((heads.masked, heads.pooler, heads.classes > 0, heads.per_token))
    fits = known and heads.pooling == "first" and heads.bias and head_bias == heads.masked
    return {"architectures": [known], **said} if fits else None


def last_token(labels: tuple[str, ...], classes: int) -> HeadConfig:
    """The head of a decoder that the published classes have."""
    return HeadConfig(pooling="last", classes=classes, labels=labels, bias=False)


def heads_in(shapes: Mapping[str, Sequence[int]], raw: Mapping[str, Any]) -> HeadConfig:
    """The heads of the model of a published family whose tensors and config.json these are."""
    names = ("cls.seq_relationship.weight", "classifier.weight", "score.weight")
    classes = next((shapes[name][0] for name in names if name in shapes), 0)
    said, usual = raw.get("id2label"), numbered(classes)
    labels = tuple(str(said.get(str(i), name)) for i, name in enumerate(usual)) if isinstance(said, Mapping) else usual
    labels = () if labels == usual else labels
    if "score.weight" in shapes:
        return last_token(labels, classes)
    pooler = "bert.pooler.dense.weight" in shapes
    masked = "cls.predictions.transform.dense.weight" in shapes
    per_token = classes > 0 and not pooler
    return HeadConfig(masked=masked, pooler=pooler, classes=classes, per_token=per_token, labels=labels)


def numbered(classes: int) -> tuple[str, ...]:
    """What transformers calls classes without names."""
    return tuple(f"LABEL_{i}" for i in range(classes))
