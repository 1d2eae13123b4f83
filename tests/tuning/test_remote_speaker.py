"""Rollouts by a real server are those of the own engine: ids, log-probabilities, and weights that follow."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.evaluation.tasks import TasksConfig
from fromzero.inference import SamplingConfig
from fromzero.inference.client import Server
from fromzero.interop import load_model
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters
from fromzero.parallel import Fleet, ParallelConfig, World, parallelize
from fromzero.tokenizer import load_tokenizer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.tuning.grpo import Grpo, GrpoConfig, align_grpo
from fromzero.tuning.remote_speaker import RemoteSpeaker
from fromzero.tuning.rollouts import RolloutConfig, Rollouts
from fromzero.tuning.speaker import Speaker
from tests.parallel.ranks import run_ranks
from tests.servers import files, serving
from tests.serving.conftest import Live, StartServer, start_server

__all__ = ["start_server"]  # a fixture

ROLLOUTS = RolloutConfig(answers=4, max_tokens=8)


@pytest.fixture(scope="module")
def adapters_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def server(start_server: StartServer, tiny_model: Path, adapters_folder: Path) -> Live:
    return start_server(model=tiny_model, allow_adapter_loading=adapters_folder, api_key="secret")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMZERO_API_KEY", "secret")


def config(tiny_model: Path, output: Path, **given: Any) -> GrpoConfig:
    tasks = output.parent / "tasks.jsonl"
    lines = [{"prompt": f"The {a} near {b}", "verifier": {"kind": "regex", "pattern": "^[^e]*e[^e]*$"}}
             for a in ("river", "cloud", "stone", "garden") for b in "abcdefgh"]  # fmt: skip
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    train = TrainConfig(
        steps=3, batch_size=16, learning_rate=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.0,
        dtype="float32", validate_every=3, checkpoint_every=1, log_every=1,
    )  # fmt: skip
    usual = {"tasks": TasksConfig(source=str(tasks)), "train": train, "held_out": 2, "rollouts": ROLLOUTS}
    return GrpoConfig(**{"model": tiny_model, "output": output, "adapters": AdapterConfig(rank=4), **usual, **given})


def lines(made: Artifact) -> list[dict[str, Any]]:
    return [line for line in read_metrics(made.path / "run" / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_speaks_as_the_own_engine(server: Live, tiny_model: Path, tmp_path: Path, temperature: float) -> None:
    """At the temperature too; with the log-probability of what ended an answer, where something did."""
    tokenizer = load_tokenizer(tiny_model)
    rollouts = replace(ROLLOUTS, url=server.url, temperature=temperature)
    remote = RemoteSpeaker(config(tiny_model, tmp_path / "x", adapters=None), rollouts, tokenizer)
    prompts = [tokenizer.encode_ordinary(text) for text in ("The river", "A", "but the cloud remembers it.")]
    sampling = SamplingConfig(temperature, top_p=1.0, max_tokens=40, n=4, logprobs=0, seed=5)
    own = Speaker(load_model(tiny_model), tokenizer).say(prompts, sampling)
    ends = set()
    for expected, found in zip(own, remote.say(prompts, sampling), strict=True):
        for a, b in zip(expected, found, strict=True):
            assert (a.tokens, a.text, a.reason, a.stop) == (b.tokens, b.text, b.reason, b.stop)
            assert len(a.logprobs) == len(b.logprobs) == len(a.tokens) + isinstance(a.stop, int)
            assert [n.logprob for n in a.logprobs] == pytest.approx([n.logprob for n in b.logprobs], abs=1e-4)
            ends.add(a.reason)
    assert ends == {"stop", "length"}


def alike(made: Artifact, other: Artifact) -> None:
    """Up to what the order of a sum changes: a server computes together what comes at the same time."""
    for a, b in zip(lines(made), lines(other), strict=True):
        for name in ("reward", "answer_tokens", "entropy", "loss", "gradient_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-3), name


def test_adapters_follow(server: Live, tiny_model: Path, adapters_folder: Path, tmp_path: Path) -> None:
    """The run by the server is the one by the own engine; nothing is left on the server."""
    own = align_grpo(config(tiny_model, tmp_path / "own"))
    rollouts = replace(ROLLOUTS, url=server.url, adapters_folder=adapters_folder)
    remote = align_grpo(config(tiny_model, tmp_path / "remote", rollouts=rollouts))
    alike(own, remote)
    assert max(line["sampler_gap"] for line in lines(remote)) < 1e-4  # what answered had the weights that learn
    assert len({line["entropy"] for line in lines(own)}) == 3
    assert not list(adapters_folder.iterdir())
    models = server.get("/v1/models", headers={"Authorization": "Bearer secret"}).json()["data"]
    assert [model["id"] for model in models] == ["tiny"]


def test_a_cut_run_goes_on(
    server: Live, tiny_model: Path, adapters_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a rollout, whose answers are kept."""
    rollouts = replace(ROLLOUTS, url=server.url, adapters_folder=adapters_folder, mini_batches=2)
    straight = align_grpo(config(tiny_model, tmp_path / "straight", rollouts=rollouts))
    deal, dealt, follow, followed = Rollouts.next_batch, 0, RemoteSpeaker.follow, 0

    def fails(self: Rollouts) -> Any:
        nonlocal dealt
        dealt += 1
        if dealt == 2:
            raise KeyboardInterrupt
        return deal(self)

    def counts(self: RemoteSpeaker, fleet: Fleet) -> None:
        nonlocal followed
        followed += 1
        follow(self, fleet)

    monkeypatch.setattr(Rollouts, "next_batch", fails)
    monkeypatch.setattr(RemoteSpeaker, "follow", counts)
    with pytest.raises(KeyboardInterrupt):
        align_grpo(config(tiny_model, tmp_path / "cut", rollouts=rollouts))
    assert not list(adapters_folder.iterdir())
    alike(straight, align_grpo(config(tiny_model, tmp_path / "cut", rollouts=rollouts)))
    assert (dealt, followed) == (4, 2)


def _speak(tuning: GrpoConfig, size: int) -> Any:
    """Log-probabilities of this rank's answer, by the server and by the own engine."""
    os.environ["FROMZERO_API_KEY"] = "secret"
    rank = torch.distributed.get_rank()
    model, tokenizer = load_model(tuning.model), load_tokenizer(tuning.model)
    assert tuning.adapters
    add_adapters(model, tuning.adapters)
    for _, layer in adapters(model):
        torch.nn.init.normal_(layer.up.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    prompts, greedy = [[3 + rank, 7]], SamplingConfig(0.0, top_p=1.0, max_tokens=6, logprobs=0, ignore_end=True)
    expected = Speaker(model, tokenizer).say(prompts, greedy)
    fleet = parallelize(Grpo(model, tuning), tuning.parallel, World(torch.device("cpu"), rank, size))
    remote = RemoteSpeaker(tuning, tuning.rollouts, tokenizer)
    remote.follow(fleet)
    found = remote.say(prompts, greedy)
    fleet.world.gather(None)
    remote.close()
    return [[noted.logprob for noted in answers[0][0].logprobs] for answers in (expected, found)]


def test_ranks_share_what_is_loaded(server: Live, tiny_model: Path, adapters_folder: Path, tmp_path: Path) -> None:
    rollouts = replace(ROLLOUTS, url=server.url, adapters_folder=adapters_folder)
    tuning = config(tiny_model, tmp_path / "x", rollouts=rollouts, parallel=ParallelConfig(shard=2))
    for expected, found in run_ranks(2, _speak, tuning, 2):
        assert found == pytest.approx(expected, abs=1e-4)
    assert not list(adapters_folder.iterdir())


def test_without_adapters_it_is_off_policy_and_says_so(
    server: Live, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = align_grpo(
        config(tiny_model, tmp_path / "all", adapters=None, rollouts=replace(ROLLOUTS, url=server.url, temperature=0.9))
    )
    gaps = [line["sampler_gap"] for line in lines(made)]
    assert gaps[0] < 1e-4 < 1e-2 < gaps[-1]
    said = "".join(capsys.readouterr())
    assert said.count("off-policy") == said.count("processed_logprobs") == 1


@pytest.mark.parametrize(
    "change",
    [{"token_ids": None}, {"token_ids": [10**6] * 3}, {"token_ids": [1]}, {"logprobs": None}, {"token_ids": ["1"]}],
)
def test_answers_without_usable_ids_are_refused(
    server: Live, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """As of a server that does not know return_token_ids, or has another model."""
    post = Server.post

    async def other(self: Server, path: str, body: dict[str, Any]) -> Any:
        said = await post(self, path, body)
        said["choices"][0] |= change
        return said

    monkeypatch.setattr(Server, "post", other)
    tuning, tokenizer = config(tiny_model, tmp_path / "x"), load_tokenizer(tiny_model)
    remote = RemoteSpeaker(tuning, replace(ROLLOUTS, url=server.url), tokenizer)
    with pytest.raises(UserError, match="gives no token ids of this model"):
        remote.say([[1, 2]], SamplingConfig(1.0, top_p=1.0, max_tokens=3, logprobs=0, seed=0, ignore_end=True))


def test_faults_say_what_and_where(server: Live, tiny_model: Path, tmp_path: Path) -> None:
    nobody = RolloutConfig(url="http://127.0.0.1:9", adapters_folder=tmp_path, answers=4, max_tokens=8)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 can't be reached"):
        align_grpo(config(tiny_model, tmp_path / "a", rollouts=nobody))
    elsewhere = replace(nobody, url=server.url)
    with pytest.raises(UserError, match=r"are not loaded .*allow_adapter_loading.* names no folder below"):
        align_grpo(config(tiny_model, tmp_path / "b", rollouts=elsewhere))
    with pytest.raises(UserError, match="no model 'other' here"):
        align_grpo(config(tiny_model, tmp_path / "c", adapters=None,
                          rollouts=replace(ROLLOUTS, url=server.url, served="other")))  # fmt: skip
    for wrong in ({"rollouts": replace(ROLLOUTS, url=server.url)}, {"rollouts": elsewhere, "adapters": None}):
        with pytest.raises(UserError, match="all or none"):
            config(tiny_model, tmp_path / "d", **wrong)


def test_a_server_that_names_no_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = GrpoConfig(model=tiny_model, output=tmp_path / "out")
    with serving(files({"v1/models": b'{"data": []}'})) as url, pytest.raises(UserError, match="names no model; name"):
        RemoteSpeaker(config, replace(ROLLOUTS, url=url), load_tokenizer(tiny_model))
