"""Encoders, classifiers and encoder-decoders over HTTP."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fromzero.inference import SamplingConfig
from fromzero.inference.embedding import Embedder
from fromzero.inference.request import Request
from fromzero.interop import save_model
from fromzero.model import Transformer
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.heads import HeadConfig, HeadedTransformer
from tests.conftest import Chain
from tests.interop.test_families import BERT, LLAMA, SPECIAL, T5
from tests.serving.conftest import StartServer

TEXTS = ["The river near the hill", "A cloud"]


def test_an_encoder_with_classes(start_server: StartServer, chain: Chain, tmp_path: Path) -> None:
    model = HeadedTransformer(BERT, HeadConfig(pooler=True, classes=3), seed=1).eval()
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    live = start_server(model=tmp_path)
    rows = [chain.tokenizer.encode(text) for text in TEXTS]
    data = live.post("/classify", {"input": TEXTS}).json()["data"]
    for row, entry in zip(rows, data, strict=True):
        with torch.inference_mode():
            classes = model.outputs(torch.tensor([row])).classes
        assert classes is not None
        assert entry["probs"] == pytest.approx(classes[0].softmax(-1).tolist(), abs=1e-5)
        assert entry["label"] == f"LABEL_{int(classes[0].argmax())}"
    answer = live.client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    expected = Embedder(tmp_path)(TEXTS)
    assert [entry.embedding for entry in answer.data] == [pytest.approx(row.tolist(), abs=1e-5) for row in expected]
    for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": []})):
        assert live.post(path, body).status_code in (400, 422)
    assert live.post("/v1/completions", {"prompt": "a"}).status_code == 422


def test_an_encoder_decoder(start_server: StartServer, chain: Chain, tmp_path: Path) -> None:
    model = EncoderDecoder(replace(T5, context=128), seed=3)
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    live = start_server(model=tmp_path)
    sampling = SamplingConfig(temperature=0, max_tokens=8, ignore_end=True)
    source = tuple(chain.tokenizer.encode(TEXTS[0]))
    outputs = live.engine  # a second engine, as the first one runs on its own thread
    alone = type(outputs)(outputs.model, outputs.tokenizer, outputs.config)
    start = live.service.start
    assert start is not None
    found = alone.answers([Request("a", (start,), sampling, source=source, goes_on=True)])["a", 0]
    body = {"prompt": TEXTS[0], "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    answer = live.post("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == "".join(output.text for output in found)
    assert answer["usage"]["prompt_tokens"] == len(source)
    assert live.post("/v1/completions", body | {"echo": True, "logprobs": 1}).status_code == 400
    assert live.post("/v1/embeddings", {"input": "a"}).status_code == 422


def test_a_decoder_without_a_chat_template(start_server: StartServer, chain: Chain, tmp_path: Path) -> None:
    save_model(Transformer(LLAMA), tmp_path, chain.tokenizer_folder, SPECIAL)
    live = start_server(model=tmp_path)
    assert live.get("/v1/models").json()["data"][0]["capabilities"] == ["chat", "completion", "embedding"]
    live.service.tokenizer.chat_template = None
    refused = live.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
    assert refused.status_code == 422
    assert "chat template" in refused.json()["error"]["message"]
    assert live.get("/v1/models").json()["data"][0]["capabilities"] == ["completion", "embedding"]
