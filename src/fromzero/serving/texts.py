"""Texts as vectors, classes and tokens: /v1/embeddings, /classify, /tokenize, /detokenize, /tokenizer_info."""

import asyncio
import base64
from typing import Any

import numpy as np

from fromzero.serving.errors import bad
from fromzero.serving.prompts import conversation_ids, prompts_of, text_ids
from fromzero.serving.schema import ClassifyRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest
from fromzero.serving.service import Service


async def embeddings(service: Service, body: EmbeddingRequest) -> dict[str, Any]:
    """Vectors of length 1, one for each text."""
    rows = await _rows(service, body.input)
    width = service.width
    if body.dimensions is not None and body.dimensions != width:
        raise bad(f"dimensions are {body.dimensions}; vectors of this model have {width}", "dimensions")
    data = [
        {"object": "embedding", "index": i, "embedding": _written(vector, body.encoding_format)}
        for i, vector in enumerate(await service.embed(rows))
    ]
    return {"object": "list", "data": data, "model": service.config.served_name, "usage": _usage(rows)}


def _written(vector: list[float], encoding: str) -> list[float] | str:
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode() if encoding == "base64" else vector


async def classify(service: Service, body: ClassifyRequest) -> dict[str, Any]:
    """The probabilities of a model's classes, for each text."""
    rows = await _rows(service, body.input)
    data, labels = [], service.embedder.labels if service.embedder else ()
    for i, probabilities in enumerate(await service.classify(rows)):
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        label = {"index": i, "label": labels[best], "probs": probabilities, "num_classes": len(probabilities)}
        data.append(label)
    return {"object": "list", "data": data, "model": service.config.served_name, "usage": _usage(rows)}


async def _rows(service: Service, given: Any) -> list[list[int]]:
    """Ids of texts, each between what stands around a text for this model."""
    tokenizer = service.tokenizer
    rows = await prompts_of(tokenizer, given, service.config.limits.prompts, "input")
    if isinstance(given, str) or isinstance(given[0], str):
        ends = [tokenizer.special_tokens[text] for text in tokenizer.suffix]
        rows = [[*row, *ends] for row in rows]
    for row in rows:
        if len(row) > service.longest:
            raise bad(f"a text has {len(row)} tokens, and {service.longest} are most; shorten it", "input")
        if max(row) >= tokenizer.vocab_size or min(row) < 0:
            raise bad(f"a text has the id {max(row)}; the model knows 0 to {tokenizer.vocab_size - 1}", "input")
    return rows


def _usage(rows: list[list[int]]) -> dict[str, int]:
    tokens = sum(map(len, rows))
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def tokenize(service: Service, body: TokenizeRequest) -> dict[str, Any]:
    """The ids of a text or a conversation."""
    tokenizer = service.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise bad("give either prompt or messages", "prompt")
    if body.prompt is None:
        ids = await conversation_ids(tokenizer, body, with_tools=bool(body.tools))
    else:
        [ids] = await text_ids(tokenizer, [body.prompt], body.add_special_tokens, body.parse_special)
    texts = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": service.context, "tokens": ids, "token_strs": texts}


async def detokenize(service: Service, body: DetokenizeRequest) -> dict[str, Any]:
    """The text of ids."""
    return {"prompt": await asyncio.to_thread(service.tokenizer.decode, body.tokens)}


def tokenizer_info(service: Service) -> dict[str, Any]:
    """What a client must know to count tokens and to build conversations."""
    tokenizer = service.tokenizer
    template = tokenizer.chat_template
    special = {name: tokenizer.roles.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": tokenizer.vocab_size,
        "max_model_len": service.context,
        "chat_template": None if template is None else template.source,
        "special_tokens": tokenizer.special_tokens,
        **special,
    }
