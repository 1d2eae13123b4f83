"""Several adapters in one engine: what each answers is what its merged model answers, and the base stays as it is."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.adapted import Adapter
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.quantize import QuantizeConfig, quantize_model
from fromzero.inference.request import Request
from fromzero.inference.speculate import Kind
from fromzero.interop.adapters import save_adapters
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters, merge_adapters
from fromzero.model.config import Latent
from tests.conftest import Chain

KINDS: tuple[Kind, Kind] = ("none", "lookup")
GREEDY = SamplingConfig(temperature=0.0, max_tokens=12, ignore_end=True)


def made_model(chain: Chain, **changes: Any) -> Transformer:
    shape = {"context": 128, "layers": 2, "width": 32, "heads": 2, "kv_heads": 1} | changes
    return Transformer(ModelConfig(**shape).with_vocab(chain.tokenizer.vocab_size), seed=3).eval()


def adapted(model: Transformer, seed: int, folder: Path, **settings: Any) -> Transformer:
    """The same with adapters that say something; they are in the folder too."""
    made, config = copy.deepcopy(model), AdapterConfig(rank=4, alpha=16.0, **settings)
    add_adapters(made, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in adapters(made):
            layer.up.weight.normal_(0, 1.0, generator=generator)
            if layer.magnitude is not None:
                layer.magnitude.mul_(4 + 8 * torch.rand(layer.magnitude.shape, generator=generator))
    save_adapters(made, folder, config, "base")
    return made


def asked(chain: Chain, used: list[Adapter | None], words: str = "The river") -> list[Request]:
    prompt = (chain.tokenizer.end_of_text, *chain.tokenizer.encode_ordinary(words * 12))
    return [Request(f"r{n}", prompt, GREEDY, adapter=adapter) for n, adapter in enumerate(used)]


def said(engine: Engine, requests: list[Request]) -> list[list[int]]:
    found = engine.answers(requests)
    return [[t for output in found[request.id, 0] for t in output.tokens] for request in requests]


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_each_answers_as_its_merged_model(chain: Chain, tmp_path: Path, decomposed: bool, biased: bool) -> None:
    model = made_model(chain, bias=biased)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    before = copy.deepcopy(model)
    folders = [tmp_path / "first", tmp_path / "second"]
    tuned = [adapted(model, seed, folder, decomposed=decomposed) for seed, folder in enumerate(folders)]
    engine = Engine(model, chain.tokenizer)
    first, second = (Adapter.read(folder.name, folder, model) for folder in folders)
    answers = said(engine, asked(chain, [first, None, second, first, None, second]))
    for one in tuned:
        merge_adapters(one)
    alone = [said(Engine(one, chain.tokenizer), asked(chain, [None]))[0] for one in (tuned[0], before, tuned[1])]
    assert answers == [*alone, *alone]
    assert len(set(map(tuple, alone))) == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name


def test_cached_prefixes_are_of_one_adapter(chain: Chain, tmp_path: Path) -> None:
    """The same prompt by another adapter, or by one that has the name of another before it, finds nothing."""
    model = made_model(chain)
    engine = Engine(model, chain.tokenizer)
    adapted(model, 1, tmp_path)
    old, new = (Adapter.read("same", tmp_path, model) for _ in range(2))
    used = (old, old, new, None, None)
    cached = [engine.answers(asked(chain, [adapter]))["r0", 0][-1].cached for adapter in used]
    assert [bool(count) for count in cached] == [False, True, False, False, True]


@pytest.mark.parametrize("decomposed", [False, True])
def test_few_bits(chain: Chain, tmp_path: Path, decomposed: bool) -> None:
    model = made_model(chain)
    quantize_model(model, QuantizeConfig(bits=4))
    whole = Engine(adapted(model, 1, tmp_path, decomposed=decomposed), chain.tokenizer)
    beside = said(Engine(model, chain.tokenizer), asked(chain, [Adapter.read("a", tmp_path, model), None]))
    assert beside[0] == said(whole, asked(chain, [None]))[0]
    assert beside[0] != beside[1]
    assert "adapters" in whole.runner.why  # torch alone runs these


def test_another_thread_meets_the_base(chain: Chain, tmp_path: Path) -> None:
    """Embeddings are computed on threads of their own, by the same layers, while an answer is made."""
    model, ids_BT = made_model(chain), torch.tensor([[1, 2, 3]])
    expected, found = model(ids_BT), list[torch.Tensor]()
    engine = Engine(model, chain.tokenizer)
    run = engine._adapted._change

    def beside(*arguments: Any) -> torch.Tensor:
        if threading.current_thread() is threading.main_thread() and len(found) < 3:
            other = threading.Thread(target=lambda: found.append(model(ids_BT)))
            other.start()
            other.join()
        return run(*arguments)

    engine._adapted._change = beside  # type: ignore[method-assign,assignment]
    adapted(model, 1, tmp_path)
    said(engine, asked(chain, [Adapter.read("a", tmp_path, model)]))
    assert len(found) == 3
    assert all(torch.equal(one, expected) for one in found)


def test_what_attention_unfolds_is_refused(tmp_path: Path) -> None:
    latent = Latent(kv_rank=16, nope_width=8, rope_width=4, value_width=8)
    model = Transformer(ModelConfig(width=32, heads=2, layers=1, latent=latent).with_vocab(9), seed=1)
    adapted(model, 1, tmp_path, targets=("key_up", "output"))
    with pytest.raises(UserError, match="must be merged"):
        Adapter.read("a", tmp_path, model)


def test_speculation(chain: Chain, tmp_path: Path) -> None:
    """What is guessed is checked with the adapter."""
    model = made_model(chain)
    adapted(model, 1, tmp_path)
    requests = asked(chain, [Adapter.read("a", tmp_path, model), None])
    plain, guessing = (Engine(model, chain.tokenizer, EngineConfig(speculate=how)) for how in KINDS)
    assert said(guessing, requests) == said(plain, requests)
    assert guessing.stats.drafted
