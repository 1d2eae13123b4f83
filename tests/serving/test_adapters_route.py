"""Adapters as models of their own: asked for together, loaded and unloaded while the server runs."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.engine import Engine
from fromzero.inference.request import Request
from fromzero.interop import load_model
from fromzero.interop.adapters import BASE, save_adapters
from fromzero.model import Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters, merge_adapters
from fromzero.serving import ServeConfig
from fromzero.serving.config import find_key
from tests.conftest import Chain, RunCommand
from tests.serving.conftest import Live, StartServer

KEY = {"Authorization": "Bearer secret"}
ASKED = {"prompt": "The river near the", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folders(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters of the served model, and what is none."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("poet", "clerk")):
        model = tuned(served_model, seed)
        save_adapters(model, folder / name, CONFIG, str(served_model))
    (folder / "none").mkdir()
    shutil.copytree(folder / "poet", folder / "strange")
    (folder / "strange" / BASE).write_text('{"digest": "of another model", "quantize": "none"}')
    return folder


CONFIG = AdapterConfig(rank=2, alpha=8.0)


def tuned(served_model: Path, seed: int) -> Transformer:
    model = load_model(served_model)
    add_adapters(model, CONFIG, seed)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapters(model):
        torch.nn.init.normal_(layer.up.weight, generator=generator)
    return model


@pytest.fixture(scope="module")
def server(start_server: StartServer, folders: Path) -> Live:
    named = (f"poet={folders / 'poet'}", str(folders / "clerk"))
    return start_server(adapters=named, allow_adapter_loading=folders, api_key="secret")


def test_models_and_their_parents(server: Live) -> None:
    listed = {model.id: model.model_dump() for model in server.client.models.list()}
    assert {name: model["parent"] for name, model in listed.items()} == {"tiny": None, "poet": "tiny", "clerk": "tiny"}
    assert server.client.models.retrieve("poet").id == "poet"


def test_all_at_once_each_by_its_own(server: Live, served_model: Path, chain: Chain) -> None:
    """What 24 clients get who ask the base and both adapters meanwhile is what the merged models say alone."""
    expected = {"tiny": _alone(load_model(served_model), chain)}
    for seed, name in enumerate(("poet", "clerk")):
        merge_adapters(model := tuned(served_model, seed))
        expected[name] = _alone(model, chain)
    assert len(set(expected.values())) == 3

    def ask(name: str) -> tuple[str, str, str]:
        client, prompt = server.client.completions, str(ASKED["prompt"])
        answer = client.create(model=name, prompt=prompt, max_tokens=8, temperature=0, extra_body={"ignore_eos": True})
        return name, answer.model, answer.choices[0].text

    with ThreadPoolExecutor(24) as clients:
        for name, said_by, text in clients.map(ask, [*expected] * 8):
            assert (said_by, text) == (name, expected[name])


def _alone(model: Transformer, chain: Chain, *begins: int) -> str:
    prompt = (*begins, *chain.tokenizer.encode_ordinary(str(ASKED["prompt"])))
    sampling = SamplingConfig(temperature=0, max_tokens=8, ignore_end=True)
    outputs = Engine(model.eval(), chain.tokenizer).answers([Request("r", prompt, sampling, goes_on=True)])
    return "".join(output.text for output in outputs["r", 0])


def test_unknown_models_and_what_adapters_lack(server: Live) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'other' here, only 'tiny', 'poet', 'clerk'"):
        server.client.completions.create(model="other", prompt="a")
    assert server.post("/v1/embeddings", {"model": "poet", "input": "a"}, headers=KEY).status_code == 422


def test_chat_streams_say_the_adapter(server: Live) -> None:
    messages = [{"role": "user", "content": "Where?"}]
    body = {"model": "poet", "messages": messages, "max_tokens": 3, "stream": True}
    lines = server.post("/v1/chat/completions", body, headers=KEY).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert {event["model"] for event in events} == {"poet"}


def test_loading_and_unloading(server: Live) -> None:
    def post(route: str, body: object, headers: dict[str, str] = KEY) -> httpx.Response:
        return server.post(f"/v1/{route}_lora_adapter", body, headers=headers)

    third = {"lora_name": "third", "lora_path": "poet"}
    assert post("load", third, headers={}).status_code == 401
    assert post("load", third).status_code == 200
    ask = {**ASKED, "model": "third"}
    said = server.post("/v1/completions", ask, headers=KEY).json()["choices"][0]["text"]
    assert said == server.post("/v1/completions", {**ASKED, "model": "poet"}, headers=KEY).json()["choices"][0]["text"]
    assert "already" in post("load", third).json()["error"]["message"]
    assert post("unload", {"lora_name": "third"}).status_code == 200
    assert post("unload", {"lora_name": "third"}).status_code == 404
    assert server.post("/v1/completions", ask, headers=KEY).status_code == 404


@pytest.mark.parametrize("path", ["..", "../..", "/etc", "poet/../..", "missing", "link", "poet/adapter_config.json"])
def test_paths_outside_are_refused_alike(server: Live, folders: Path, path: str) -> None:
    """Also by a link that leads out of the folder."""
    if not (link := folders / "link").is_symlink():
        link.symlink_to("/etc")
    answer = server.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path}, headers=KEY)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("lora_path names no folder below")


def test_what_is_no_adapter_is_refused_without_the_path_of_the_server(server: Live, folders: Path) -> None:
    answer = server.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "none"}, headers=KEY)
    assert answer.status_code == 400
    assert "adapter_config.json" in answer.text
    answer = server.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "strange"}, headers=KEY)
    assert answer.status_code == 400
    assert "the adapters in strange were made on another model" in answer.text
    assert str(folders) not in answer.text
    for name in ("a/b", "", "x" * 101, "tiny"):
        answer = server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": "poet"}, headers=KEY)
        assert answer.status_code == 400


def test_loading_is_off_unless_a_folder_is_named(live: Live) -> None:
    body = {"lora_name": "x", "lora_path": "poet"}
    assert live.post("/v1/load_lora_adapter", body).status_code in (404, 405)


def test_settings(served_model: Path, folders: Path) -> None:
    with pytest.raises(UserError, match="needs a key"):
        find_key(ServeConfig(served_model, allow_adapter_loading=folders))
    for names in (("a=x", "a=y"), ("served=x",)):
        with pytest.raises(UserError, match="same name"):
            ServeConfig(served_model, adapters=names)


def test_generate_with_adapters(command: RunCommand, served_model: Path, folders: Path, chain: Chain) -> None:
    """On the command line they are merged."""
    merge_adapters(model := tuned(served_model, 0))
    sampling = ("--sampling.temperature", 0, "--sampling.max_tokens", 8, "--sampling.ignore_end", "true")
    ran = command("generate", served_model, "--adapters", folders / "poet", "--prompt", ASKED["prompt"], *sampling)
    assert _alone(model, chain, chain.tokenizer.end_of_text).strip() in ran.stdout, ran.stderr
