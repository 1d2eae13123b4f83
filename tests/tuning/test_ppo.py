"""PPO: what tokens are rewarded with, the loss by hand, one run and the same run resumed, and that it learns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.evaluation.tasks import TasksConfig
from fromzero.interop import load_model
from fromzero.locations import cached
from fromzero.model.adapters import AdapterConfig
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.tuning.policy_losses import Penalty
from fromzero.tuning.ppo import PpoConfig, align_ppo
from fromzero.tuning.ppo_objective import Ppo, PpoLoss, experience, explained_variance, token_rewards
from fromzero.tuning.reward import RewardConfig, align_reward
from fromzero.tuning.rollouts import RolloutConfig, Rollouts

Batch = dict[str, torch.Tensor]


def rollout(rows: int = 6, prompt: int = 3, seed: int = 0) -> Batch:
    """Rows as Rollouts makes them: answers of 1 to 5 tokens behind a prompt, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 200, (rows, prompt + 5), generator=generator)
    lengths = torch.arange(rows) % 5 + 1
    targets, places = ids[:, 1:].clone(), torch.arange(prompt + 4)
    targets[(places < prompt - 1) | (places >= prompt - 1 + lengths[:, None])] = -100
    return {
        "ids_BT": ids[:, :-1],
        "targets_BT": targets,
        "sampled_BT": torch.zeros(targets.shape),
        "rewards_B": torch.linspace(-1, 1, rows),
        "scores_B": torch.linspace(-1, 1, rows),
        "whole_B": torch.ones(rows, dtype=torch.bool),
        "lengths_B": lengths,
        "deviations_B": torch.zeros(rows),
    }


@pytest.fixture
def objective(tiny_model: Path) -> Ppo:
    model = HeadedTransformer.on(load_model(tiny_model), HeadConfig(classes=1, per_token=True))
    made = Ppo(
        model, RolloutConfig(temperature=0.7, max_tokens=5), PpoLoss(value_weight=0.5), Penalty(0.1), TrainConfig()
    )
    made.frozen = (load_model(tiny_model).requires_grad_(False),)
    return made


def measure(objective: Ppo, batch: Batch, what: str) -> torch.Tensor:
    objective.measuring = what
    with torch.no_grad():
        found: torch.Tensor = objective(**batch)
    objective.measuring = None
    return found


def test_divergence_is_that_of_answers_that_are_learned(objective: Ppo) -> None:
    batch = rollout()
    batch["targets_BT"][0] = -100
    old, values = measure(objective, batch, "policy").unbind(-1)
    batch |= experience(batch, old, values, old - 0.1, objective.config, objective.penalty)
    objective.train()(**batch)
    assert objective.noted["answer_kl"] == (pytest.approx(float(batch["divergences_B"].sum())), 5)


def test_the_reward_is_at_the_last_token_and_divergence_costs_at_each() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    k1 = torch.full((4, 4), 2.0)
    found = token_rewards(torch.tensor([1.0, torch.nan, 5.0, 3.0]), k1, mask, 0.1)
    expected = [[0, -0.2, 0.8, 0], [-0.2, -0.2, -0.2, -0.2], [0, 0, 0, 0], [2.8, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns + 3, returns) == pytest.approx(1)
    assert explained_variance(torch.zeros(3), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, torch.ones(3)) == 0
    assert explained_variance(returns[:0], returns[:0]) == 0


def test_at_the_start_nothing_diverges_and_the_reference_is_the_model(objective: Ppo) -> None:
    batch = rollout()
    old, values = measure(objective, batch, "policy").unbind(-1)
    torch.testing.assert_close(measure(objective, batch, "reference"), old)
    logits = objective.model(batch["ids_BT"]).detach() / 0.7
    mask = batch["targets_BT"] != -100
    by_hand = logits.log_softmax(-1).gather(-1, batch["targets_BT"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(old, by_hand * mask)
    found = objective.model.outputs(batch["ids_BT"]).classes
    torch.testing.assert_close(values, found[..., 0].detach())


def test_advantages_and_loss_are_those_of_the_paper(objective: Ppo) -> None:
    batch, config, penalty = rollout(), PpoLoss(value_weight=0.5, discount=0.9, whiten=False), Penalty(0.1)
    objective.config = config
    generator = torch.Generator().manual_seed(1)
    mask = batch["targets_BT"] != -100
    reference = torch.randn(mask.shape, generator=generator) - 3
    now, now_values = measure(objective, batch, "policy").unbind(-1)
    old = now + 0.3 * torch.randn(mask.shape, generator=generator) * mask  # so that some ratios are clipped
    values = now_values + 0.3 * torch.randn(mask.shape, generator=generator)
    added = experience(batch, old, values, reference, config, penalty)
    total = 0.0
    for row in range(len(mask)):
        places = mask[row].nonzero()[:, 0].tolist()
        gain = after = 0.0
        for place in reversed(places):
            reward = -0.1 * float(old[row, place] - reference[row, place])
            reward += float(batch["rewards_B"][row]) if place == places[-1] else 0.0
            value = float(values[row, place])
            gain = reward + 0.9 * after - value + 0.9 * 0.95 * gain
            after = value
            assert float(added["advantages_BT"][row, place]) == pytest.approx(gain, abs=1e-5)
            ratio = float((now[row, place] - old[row, place]).exp())
            policy = max(-gain * ratio, -gain * min(max(ratio, 0.8), 1.2))
            near = min(max(float(now_values[row, place]), value - 0.2), value + 0.2)
            goal = gain + value
            total += policy + 0.5 * 0.5 * max((float(now_values[row, place]) - goal) ** 2, (near - goal) ** 2)
    loss = objective(**batch, **added)
    assert loss.item() == pytest.approx(total, rel=1e-4)
    assert objective.count(batch) == int(mask.sum())
    assert not added["advantages_BT"][~mask].any()
    loss.backward()
    assert float(objective.model.classifier.weight.grad.abs().sum()) > 0


def test_loss_does_not_depend_on_micro_batches_nor_on_padding(objective: Ppo) -> None:
    batch = rollout()
    old, values = measure(objective, batch, "policy").unbind(-1)
    batch |= experience(batch, old - 0.1, values, old, objective.config, objective.penalty)
    objective.eval()
    whole = objective(**batch).item()
    parts = sum(objective(**{name: t[i : i + 2] for name, t in batch.items()}).item() for i in (0, 2, 4))
    assert parts == pytest.approx(whole, rel=1e-5)
    wider = {
        n: torch.nn.functional.pad(t, (0, 3), value=-100 if n == "targets_BT" else 0)
        for n, t in batch.items()
        if n.endswith("_BT")
    }
    assert objective(**{**batch, **wider}).item() == pytest.approx(whole, rel=1e-5)


def test_whitened_advantages_and_the_penalty_that_follows_a_target() -> None:
    batch, penalty = rollout(), Penalty(0.1, target=0.5, horizon=60)
    mask = batch["targets_BT"] != -100
    old, reference = mask * -1.0, mask * -2.0  # one nat a token
    added = experience(batch, old, torch.zeros(mask.shape), reference, PpoLoss(), penalty)
    gains = added["advantages_BT"][mask]
    assert float(gains.mean()) == pytest.approx(0, abs=1e-5)
    assert float(gains.var()) == pytest.approx(1, abs=1e-4)
    assert added["divergences_B"].tolist() == batch["lengths_B"].tolist()
    assert penalty.value == pytest.approx(0.1 * (1 + 0.2 * 6 / 60))  # above the target: at most 20 % in a horizon
    batch["targets_BT"] = torch.full_like(batch["targets_BT"], -100)
    experience(batch, old * 0, old * 0, old * 0, PpoLoss(), penalty)  # nothing is learned, nothing is led
    assert penalty.value == pytest.approx(0.1 * (1 + 0.2 * 6 / 60))


TRAIN = TrainConfig(
    steps=7, batch_size=16, learning_rate=3e-3, warmup_steps=0, schedule="constant", weight_decay=0.0, dtype="float32",
    validate_every=6, checkpoint_every=1, log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TasksConfig:
    """Right is what has one letter e in it."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    words = ("river", "cloud", "stone", "window", "silver", "forest", "garden", "letter", "winter", "mountain")
    verifier = {"kind": "regex", "pattern": "^[^e]*e[^e]*$"}
    lines = [{"prompt": f"The {a} near the {b}", "verifier": verifier} for a in words for b in words]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return TasksConfig(source=str(file))


def logged(made: Artifact, key: str) -> list[float]:
    lines = read_metrics(made.path / "run" / "metrics.jsonl")
    return [line[key] for line in lines if line["kind"] == "train"]


def test_it_learns_and_comes_out_as_a_plain_model(tiny_model: Path, tasks: TasksConfig, tmp_path: Path) -> None:
    made = align_ppo(
        PpoConfig(
            model=tiny_model,
            output=tmp_path / "made",
            tasks=tasks,
            held_out=8,
            train=replace(TRAIN, steps=60, batch_size=32, validate_every=30),
            rollouts=RolloutConfig(answers=1, epochs=2, max_tokens=12),
            loss=PpoLoss(target=1.0, horizon=500),
        )
    )
    rewards = logged(made, "reward")
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.2
    assert logged(made, "answer_kl")[0] == pytest.approx(0, abs=1e-5)
    assert logged(made, "penalty")[0] < 0.05  # nothing has diverged yet
    assert max(logged(made, "sampler_gap")[::2]) < 1e-4  # first steps of rollouts
    assert type(load_model(made.path)).__name__ == "Transformer"
    assert not [name for name in load_file(made.path / "model.safetensors") if "classifier" in name]
    outcome = json.loads((made.path / "run" / "outcome.json").read_text())
    assert outcome["task"] == "ppo"
    assert {"answer_kl", "penalty", "value_loss", "explained_variance"} <= {c["key"] for c in outcome["curves"]}


def test_a_learned_reward_needs_no_answers(tiny_model: Path, tmp_path: Path) -> None:
    prompts = [{"prompt": f"Write {n} lines of a poem."} for n in range(60)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    pairs = [{**prompt, "chosen": " is quiet", "rejected": " the the"} for prompt in prompts]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    given: dict[str, Any] = {"model": tiny_model, "train": replace(TRAIN, steps=2)}
    align_reward(RewardConfig(**given, output=tmp_path / "judge", preferences=tmp_path / "pairs.jsonl"))
    made = align_ppo(
        PpoConfig(
            model=tiny_model,
            output=tmp_path / "made",
            tasks=TasksConfig(str(tmp_path / "prompts.jsonl")),
            held_out=4,
            train=replace(TRAIN, steps=2, batch_size=4, validate_every=1),
            rollouts=RolloutConfig(answers=1, max_tokens=6),
            reward=tmp_path / "judge",
        )
    )
    outcome = json.loads((made.path / "run" / "outcome.json").read_text())
    names = [change["name"] for change in outcome["changes"]]
    assert names == ["length of held-out answers, tokens", "reward of held-out answers"]
    assert outcome["curves"][0]["key"] == "held_out_reward"
    assert all(example["right_after"] is None for example in outcome["examples"])
    assert not outcome["notes"]


@pytest.mark.parametrize("adapters", [None, AdapterConfig(rank=4)], ids=["all", "adapters"])
def test_a_run_that_was_cut_off_is_the_straight_one_with_a_learned_reward(
    tiny_model: Path,
    tasks: TasksConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapters: AdapterConfig | None,
) -> None:
    """Cut in the middle of a rollout: values, old and reference log-probabilities and the penalty have to be kept."""
    pairs = [
        {"prompt": f"The {w}", "chosen": " is quiet", "rejected": " the the"} for w in ("sea", "sky", "sun", "day")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs * 4))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    judge = align_reward(
        RewardConfig(
            model=tiny_model,
            output=cached("models", "judge"),  # where it is found by its name
            preferences=tmp_path / "pairs.jsonl",
            train=replace(TRAIN, steps=2),
        )
    )
    given: dict[str, Any] = {
        "model": tiny_model,
        "tasks": tasks,
        "held_out": 4,
        "train": TRAIN,
        "reward": Path("judge"),
    }
    given |= {"rollouts": RolloutConfig(answers=1, mini_batches=2, epochs=2, max_tokens=8), "adapters": adapters}
    given |= {"loss": PpoLoss(target=0.1, horizon=100)}
    straight = align_ppo(PpoConfig(**given, output=tmp_path / "straight"))
    assert straight.manifest["inputs"]["reward"] == judge.digest
    looks = [line for line in read_metrics(straight.path / "run" / "metrics.jsonl") if line["kind"] == "look"]
    assert all("held_out_reward" in look for look in looks)
    deal, dealt = Rollouts.next_batch, 0

    def fails(self: Rollouts) -> Any:
        nonlocal dealt
        dealt += 1
        if dealt == 4:  # after step 3, of the 4 of the first rollout
            raise KeyboardInterrupt
        return deal(self)

    monkeypatch.setattr(Rollouts, "next_batch", fails)
    with pytest.raises(KeyboardInterrupt):
        align_ppo(PpoConfig(**given, output=tmp_path / "cut"))
    cut = align_ppo(PpoConfig(**given, output=tmp_path / "cut"))
    assert (cut.path / "model.safetensors").read_bytes() == (straight.path / "model.safetensors").read_bytes()
    assert logged(cut, "penalty") == logged(straight, "penalty")


@pytest.mark.parametrize(
    "wrong", [{"clip": 0}, {"clip": 1.0}, {"discount": 0}, {"decay": 1.1}, {"target": 0.0}, {"penalty": 0, "target": 1}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="loss: "):
        PpoLoss(**wrong)  # type: ignore[arg-type]
