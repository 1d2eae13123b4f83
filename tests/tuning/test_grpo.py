"""Stages that learn from their own answers: they learn, whatever the sizes of batches and the number of ranks, and one
that was cut off goes on to the same weights.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.evaluation.answers import NoScore
from fromzero.evaluation.tasks import Arithmetic, Task, TasksConfig
from fromzero.evaluation.verifiers import Guarded
from fromzero.interop import load_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, add_adapters
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.tokenizer import load_tokenizer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.tuning.expert_iteration import ExpertIterationConfig, align_expert_iteration
from fromzero.tuning.grpo import PRESETS, Grpo, GrpoConfig, Options, align_grpo
from fromzero.tuning.practice import Exam, follow, make_speaker
from fromzero.tuning.reinforce import ReinforceConfig, align_reinforce
from fromzero.tuning.rollouts import RolloutConfig, Rollouts
from fromzero.tuning.worked import WorkedConfig, make_worked
from tests.parallel.ranks import run_ranks

SHAPE = ModelConfig(layers=2, width=32, heads=4, context=32, vocab_size=64, ffn_width=64)
TRAIN = TrainConfig(
    steps=12, batch_size=32, learning_rate=3e-3, warmup_steps=0, schedule="constant", weight_decay=0.0, dtype="float32",
    validate_every=6, checkpoint_every=1, log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TasksConfig:
    """Right is what has the letter e in it, and not too much else."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    words = ("river", "cloud", "stone", "window", "silver", "forest", "garden", "letter", "winter", "mountain")
    lines = [
        {"prompt": f"The {a} near the {b}", "verifier": {"kind": "regex", "pattern": "^[^e]*e[^e]*$"}}
        for a in words
        for b in words
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return TasksConfig(source=str(file))


def settings(tiny_model: Path, tasks: TasksConfig, output: Path, **given: Any) -> dict[str, Any]:
    usual = {"train": TRAIN, "held_out": 8, "rollouts": RolloutConfig(answers=8, max_tokens=12)}
    return {"model": tiny_model, "output": output, "tasks": tasks, **usual, **given}


def weights(made: Artifact) -> bytes:
    return (made.path / "model.safetensors").read_bytes()


def rewards(made: Artifact) -> list[float]:
    return [line["reward"] for line in read_metrics(made.path / "run" / "metrics.jsonl") if line["kind"] == "train"]


def test_learns_and_tells(tiny_model: Path, tasks: TasksConfig, tmp_path: Path) -> None:
    given = settings(tiny_model, tasks, tmp_path / "made", train=replace(TRAIN, steps=40), retain=tasks.source)
    retain = tmp_path / "known.txt"
    retain.write_text("The river near the cloud is quiet.", encoding="utf-8")
    made = align_grpo(GrpoConfig(**given | {"retain": retain, "preset": "dapo"}))
    first, last = rewards(made)[:5], rewards(made)[-5:]
    assert sum(last) / 5 > sum(first) / 5 + 0.3
    lines = list(read_metrics(made.path / "run" / "metrics.jsonl"))
    wanted = {"reward", "reward_deviation", "right", "answer_tokens", "truncated", "clipped", "entropy", "sampler_gap"}
    assert all(wanted <= line.keys() for line in lines if line["kind"] == "train")
    assert max(line["sampler_gap"] for line in lines if line["kind"] == "train") < 1e-4
    assert [line["step"] for line in lines if line["kind"] == "look"] == [0, 6, 12, 18, 24, 30, 36, 40]
    outcome = json.loads((made.path / "run" / "outcome.json").read_text())
    assert [change["name"] for change in outcome["changes"]][::2] == [
        "held-out accuracy",
        "loss on what it knew before, nats per token",
    ]
    assert outcome["changes"][0]["after"] == made.summary["held_out_accuracy"]
    assert len(outcome["examples"]) == 8
    assert outcome["more"]["samples_per_second"] > 0
    assert align_grpo(GrpoConfig(**given | {"retain": retain, "preset": "dapo"})).digest == made.digest  # up to date


@pytest.mark.parametrize("adapters", [None, AdapterConfig(rank=4)], ids=["all", "adapters"])
def test_a_run_that_was_cut_off_is_the_straight_one(
    tiny_model: Path, tasks: TasksConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: Any
) -> None:
    """Cut between the steps of one rollout; with everything that has to be kept: old, reference, order, seeds."""
    rollouts = RolloutConfig(answers=4, mini_batches=2, epochs=2, max_tokens=8)
    train = replace(TRAIN, steps=7, batch_size=16)
    given = settings(tiny_model, tasks, tmp_path, rollouts=rollouts, train=train, adapters=adapters)
    straight = align_grpo(GrpoConfig(**given | {"output": tmp_path / "straight"}))
    deal, dealt = Rollouts.next_batch, 0

    def fails(self: Rollouts) -> Any:
        nonlocal dealt
        dealt += 1
        if dealt in (4, 7):  # after steps 3 and, in the second part, 5
            raise KeyboardInterrupt
        return deal(self)

    monkeypatch.setattr(Rollouts, "next_batch", fails)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            align_grpo(GrpoConfig(**given | {"output": tmp_path / "cut"}))
    cut = align_grpo(GrpoConfig(**given | {"output": tmp_path / "cut"}))
    assert dealt == 9  # 3, 2 and 2 steps, and two that were cut
    assert weights(cut) == weights(straight)
    assert weights(cut) != (tiny_model / "model.safetensors").read_bytes()


def test_plain_ways(tiny_model: Path, tasks: TasksConfig, tmp_path: Path) -> None:
    given = settings(tiny_model, tasks, tmp_path / "reinforce", train=replace(TRAIN, steps=30))
    made = align_reinforce(ReinforceConfig(**given))
    assert sum(rewards(made)[-5:]) > sum(rewards(made)[:5]) + 0.5
    given |= {"output": tmp_path / "expert", "rollouts": RolloutConfig(answers=8, mini_batches=2, max_tokens=12)}
    made = align_expert_iteration(ExpertIterationConfig(**given))
    assert sum(rewards(made)[-5:]) > sum(rewards(made)[:5]) + 0.5
    with pytest.raises(UserError, match="once"):
        ReinforceConfig(**given)


def rows(seed: int = 0) -> dict[str, torch.Tensor]:
    """A made-up rollout: 4 groups of 2, lengths and prompts of several sizes, one answer that carries no loss."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT, lengths_B = torch.randint(64, (8, 13), generator=generator), torch.tensor([3, 9, 1, 7, 5, 5, 8, 2])
    places_BT = torch.arange(12) - torch.tensor([1, 2, 3, 2, 1, 4, 3, 2])[:, None]
    targets_BT = ids_BT[:, 1:].masked_fill((places_BT < 0) | (places_BT >= lengths_B[:, None]), -100)
    targets_BT[5] = -100
    sampled_BT = -4.0 - torch.rand(8, 12, generator=generator)
    rewards_B = torch.rand(8, generator=generator)
    rewards_B[5] = torch.nan
    return {
        "ids_BT": ids_BT[:, :-1], "targets_BT": targets_BT, "sampled_BT": sampled_BT, "rewards_B": rewards_B,
        "scores_B": rewards_B, "whole_B": torch.ones(8, dtype=torch.bool), "lengths_B": lengths_B,
        "deviations_B": torch.zeros(8),
    }  # fmt: skip


def step(
    config: GrpoConfig, adapted: bool, size: int = 1, at_once: int | None = None, pad: int = 0
) -> tuple[float, Any]:
    """The loss of the made-up rollout, and the gradient norm."""
    rank = torch.distributed.get_rank() if size > 1 else 0
    model = Transformer(SHAPE, seed=1)
    if adapted:
        add_adapters(model, AdapterConfig(rank=4))
    policy = Grpo(model, config)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(parameter)))
    fleet = parallelize(policy, config.parallel, World(torch.device("cpu"), rank, size))
    dealt = rows()
    if pad:
        fill = {"targets_BT": -100}
        dealt = {
            n: torch.nn.functional.pad(t, (0, pad), value=fill.get(n, 0)) if n.endswith("_BT") else t
            for n, t in dealt.items()
        }
    dealt |= policy.extend(dealt, fleet)
    if "old_BT" in dealt:
        dealt["old_BT"] = dealt["old_BT"] + 0.5 * torch.sin(torch.arange(8.0))[:, None]  # so that ratios are clipped
    own = {name: tensor[fleet.data_rank :: fleet.data_size] for name, tensor in dealt.items()}
    policy.train()
    loss = fleet.gradients(own, at_once, fleet.sum(policy.count(own)))
    noted = {name: fleet.total(total, "loss") for name, (total, _) in sorted(policy.noted.items())}
    return loss, (float(fleet.clip(0.0)), noted)


CASES: dict[str, tuple[GrpoConfig, bool]] = {
    name: (GrpoConfig(model=Path(), output=Path(), preset=preset, options=options, parallel=ParallelConfig(**parallel),  # type: ignore[arg-type]
                      rollouts=RolloutConfig(answers=2, epochs=2, max_tokens=9)), adapted)
    for name, preset, options, parallel, adapted in [
        ("grpo", "grpo", GrpoConfig.options, {}, False),
        ("dapo adapters", "dapo", Options(None, None, None, None, None, 0.1), {}, True),
        ("dr grpo", "dr_grpo", GrpoConfig.options, {}, False),
        ("gspo", "gspo", Options(None, None, None, 0.1, 0.1, None), {}, False),
        ("grpo shared", "grpo", GrpoConfig.options, {"shard": 2}, False),
        ("dapo shared adapters", "dapo", Options(None, None, None, None, None, 0.1), {"shard": 2}, True),
    ]
}  # fmt: skip


def _all_cases(size: int) -> list[Any]:
    return [step(*case, size=size) for case in CASES.values()]


def test_ranks_micro_batches_and_padding_change_nothing() -> None:
    shared = run_ranks(2, _all_cases, 2)[0]
    for (name, (config, adapted)), (loss, (norm, noted)) in zip(CASES.items(), shared, strict=True):
        alone = replace(config, parallel=ParallelConfig())
        for given in ({}, {"at_once": 1}, {"at_once": 4, "pad": 5}):
            found, (found_norm, found_noted) = step(alone, adapted, **given)
            assert found == pytest.approx(loss, abs=1e-6), (name, given)
            assert found_norm == pytest.approx(norm, rel=1e-4), (name, given)
            assert found_noted == pytest.approx(noted, rel=1e-4, abs=1e-5), (name, given)
    assert len({round(loss, 4) for loss, _ in shared[:4]}) == 4


def _speak(model: Path, size: int) -> Any:
    rank = torch.distributed.get_rank() if size > 1 else 0
    world = World(torch.device("cpu"), rank, size)
    config = GrpoConfig(model=model, output=Path(), rollouts=RolloutConfig(answers=4, max_tokens=8, epochs=2))
    base, tokenizer = load_model(model), load_tokenizer(model)
    prompts = [tokenizer.encode_ordinary(text) for text in ("The river", "A", "Nobody saw the cloud", "stone")]
    speaker = make_speaker(base, tokenizer, config.rollouts, prompts)
    with torch.no_grad():
        base.token_embedding.weight.mul_(1.5)  # the speaker has to follow
    policy = Grpo(base, config)
    fleet = parallelize(policy, ParallelConfig(shard=size) if size > 1 else ParallelConfig(), world)

    def score(numbers: Sequence[int], answers: Sequence[str]) -> list[float | None]:
        return [float("e" in answer) for answer in answers]

    share = fleet.data_rank, fleet.data_size
    loader = Rollouts(config.rollouts, prompts, speaker, score, lambda r: policy.extend(r, fleet),
                      lambda: follow(speaker, fleet), 12, 0, world, share)  # fmt: skip
    loader.next_batch()
    return {name: tensor.clone() for name, tensor in loader.tensors.items()}


def test_ranks_speak_together(tiny_model: Path) -> None:
    """The same answers as one process gives, on each rank; old log-probabilities are those of the sampler."""
    alone, (first, second) = _speak(tiny_model, 1), run_ranks(2, _speak, tiny_model, 2)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone["old_BT"], alone["sampled_BT"], atol=1e-4, rtol=0)
    gap = (alone["reference_BT"] - alone["old_BT"]).abs().max()
    assert float(gap) < 1e-5  # nothing was learned yet


def test_a_group_is_more_than_one_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        GrpoConfig(model=tmp_path, output=tmp_path, rollouts=RolloutConfig(answers=1))
    with pytest.raises(UserError, match=r"rollouts\.tries"):
        RolloutConfig(answers=1, tries=2)


def test_presets_only_choose_options() -> None:
    def chosen(**given: Any) -> Options:
        return GrpoConfig(model=Path(), output=Path(), **given).chosen

    assert chosen() == Options("group_std", "sequence", "token", 0.2, 0.2, 0.04)
    assert chosen(preset="dr_grpo") == Options("group", "constant", "token", 0.2, 0.2, 0.0)
    assert chosen(preset="dapo") == Options("group_std", "token", "token", 0.2, 0.28, 0.0)
    assert chosen(preset="gspo") == Options("group_std", "sequence", "sequence", 3e-4, 4e-4, 0.0)
    own = replace(GrpoConfig.options, advantage="leave_one_out", beta=0.0)
    assert chosen(options=own) == replace(PRESETS["grpo"], advantage="leave_one_out", beta=0.0)
    for wrong in ({"dual_clip": 0.5}, {"options": replace(own, clip_low=-1.0)}, {"sampler_bound": 0.0}):
        with pytest.raises(UserError):
            chosen(**wrong)
    with pytest.raises(UserError, match="held out"):
        chosen(tasks=TasksConfig(split="train"))
    with pytest.raises(UserError, match="pipeline"):
        chosen(parallel=ParallelConfig(pipeline=2))


def test_tasks_with_answers(tmp_path: Path) -> None:
    sums = TasksConfig(count=200, arithmetic=Arithmetic(operators="+", digits=2))
    exact = make_worked(WorkedConfig(output=tmp_path / "sums", tasks=sums))
    made = make_worked(WorkedConfig(output=tmp_path / "mixed", tasks=sums, right=0.5))
    right, prompts = 0, {}
    for name in ("train", "validation"):
        records = [json.loads(line) for line in (made.path / f"{name}.jsonl").read_text().splitlines()]
        prompts[name] = {record["messages"][0]["content"] for record in records}
        for record in records:
            prompt, answer = (message["content"] for message in record["messages"])
            assert record["text"] == prompt + answer
            value = sum(map(int, prompt.rstrip("=").split("+")))
            assert int(answer) in (value, value + 1, value - 1, value // 10 * 10)
            right += int(answer) == value
        lines = (exact.path / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == len(prompts[name]) == exact.summary[name]
    assert not prompts["train"] & prompts["validation"]
    assert 0.4 < right / sum(map(len, prompts.values())) < 0.6


@pytest.mark.parametrize("right", [0.0, 0.5])
def test_wrong_answers_are_wrong(right: float, tmp_path: Path) -> None:
    lines = [{"prompt": f"{n}*10=", "answer": f"{n}0"} for n in range(1, 99)]
    tasks = TasksConfig(source=str(tmp_path / "tasks.jsonl"))
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = make_worked(WorkedConfig(output=tmp_path / "wrong", tasks=tasks, right=right))
    said = [json.loads(line)["messages"][1]["content"] for line in (made.path / "train.jsonl").read_text().splitlines()]
    whole = len([answer for answer in said if answer.endswith("0")])
    assert 0.3 * len(lines) < whole < 0.7 * len(lines) if right else whole == 0
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps({**line, "answer": "1/2"}) for line in lines))
    with pytest.raises(UserError, match="no whole number"):
        make_worked(WorkedConfig(output=tmp_path / "none", tasks=tasks, right=right))


def test_no_more_rows_are_measured_at_once_than_a_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CASES["grpo"][0], train=replace(TRAIN, batch_size=4))
    policy, sizes = Grpo(Transformer(SHAPE, seed=1), config), []
    fleet = parallelize(policy, config.parallel, World(torch.device("cpu")))
    measure = policy.logprobs
    monkeypatch.setattr(
        policy, "logprobs", lambda model, batch: sizes.append(len(batch["ids_BT"])) or measure(model, batch)
    )
    policy.extend(rows(), fleet)
    assert sizes == [4, 4, 4, 4]  # the policy and the reference, of 8 rows each


def test_held_out_answers_without_a_score_are_left_out(tiny_model: Path, tmp_path: Path) -> None:
    def verifier(answer: str, task: Task) -> float:
        if task.id == "none":
            raise NoScore("too slow")
        return 1.0

    config = GrpoConfig(model=tiny_model, output=tmp_path, train=TRAIN, rollouts=RolloutConfig(max_tokens=4))
    tasks, model = [Task("The", id=name) for name in ("some", "none", "none")], load_model(tiny_model)
    questions = [[5]] * 3
    speaker = make_speaker(model, load_tokenizer(tiny_model), config.rollouts, questions)
    exam = Exam(tasks, questions, Guarded(verifier), speaker, config, tmp_path, None)
    for step in (1, 2):
        figures = exam(model, step)
    assert (figures["held_out_accuracy"], figures["held_out_scored"]) == (1.0, 1)
    assert exam.verifier.failures == {"too slow": 2}  # of the last look
