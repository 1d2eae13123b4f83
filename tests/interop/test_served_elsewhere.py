"""A folder that `convert` writes has what the loaders of vLLM and others look for, as transformers reads it."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from fromzero.inference import SamplingConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request
from fromzero.interop import load_any
from fromzero.interop.convert import ConvertConfig, convert
from fromzero.tuning.grading import prompt_ids

CHAT = [{"role": "user", "content": "Where is the river?"}]


@pytest.fixture(scope="module")
def exported(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In shards, with the numbers that servers use."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    convert(ConvertConfig(served_model, folder, dtype="bfloat16", shard_gigabytes=5e-5))
    return folder


def test_every_file_that_a_loader_reads_is_there(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]  # by which vLLM and SGLang choose the model
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] == load_any(exported).config.context
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1
    for file in files:
        with safe_open(exported / file, "pt") as weights:
            assert weights.metadata() == {"format": "pt"}
            assert {name for name, place in index["weight_map"].items() if place == file} == set(weights.keys())
    generation = transformers.GenerationConfig.from_pretrained(exported)
    assert generation.eos_token_id == config["eos_token_id"]
    assert (
        "chat_template" in json.loads((exported / "tokenizer_config.json").read_text())
        or (exported / "chat_template.jinja").exists()
    )


def test_it_answers_as_it_does_here(exported: Path) -> None:
    engine = open_engine(exported)
    ids = prompt_ids(engine.tokenizer, CHAT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    assert tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"] == ids
    theirs = model.generate(
        torch.tensor([ids]), max_new_tokens=12, min_new_tokens=12, do_sample=False, top_p=None, temperature=None
    )
    request = Request("", tuple(ids), SamplingConfig(temperature=0, max_tokens=12, min_tokens=12))
    ours = engine.answers([request])["", 0]
    assert [token for output in ours for token in output.tokens] == theirs[0, len(ids) :].tolist()
