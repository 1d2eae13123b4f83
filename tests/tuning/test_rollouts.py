"""Rollouts: what is learned is what was drawn, by its own log-probabilities; a run goes on in the middle of one."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.interop import load_model
from fromzero.model import Transformer
from fromzero.parallel import World
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tuning.expert_iteration import Experts
from fromzero.tuning.policy import Policy
from fromzero.tuning.rollouts import RolloutConfig, Rollouts, guarded, overlong_penalty
from fromzero.tuning.speaker import Speaker

ALONE = World(torch.device("cpu"))
TEXTS = ("The story of", "In room 3 there is a long", "A", "river", "Nobody saw the", "The cloud near")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def eager(tiny_model: Path, tokenizer: Tokenizer) -> Transformer:
    """The tiny model, made to end its answers now and then."""
    model: Any = load_model(tiny_model)
    with torch.no_grad():
        rows_VD = model.head_weight
        rows_VD[tokenizer.end_of_text] = 1.01 * rows_VD[tokenizer.encode_ordinary(" the")[0]]
    return model


def make(
    model: Transformer, tokenizer: Tokenizer, config: RolloutConfig, batch_size: int = 16, **given: Any
) -> Rollouts:
    speaker = given.pop("speaker", None) or Speaker(model, tokenizer, config.dtype)
    prompts = [tokenizer.encode_ordinary(text) for text in TEXTS]

    def by_length(numbers: Sequence[int], answers: Sequence[str]) -> list[float | None]:
        return [len(answer) / 40 for answer in answers]

    settings: dict[str, Any] = {
        "score": by_length,
        "extend": lambda rows: {},
        "sync": speaker.engine.refresh,
        "seed": 3,
        "world": ALONE,
    } | given
    return Rollouts(config, prompts, speaker, batch_size=batch_size, **settings)


@pytest.mark.parametrize(
    ("temperature", "dtype", "bound"), [(0.7, "float32", 1e-4), (1.6, "float32", 1e-4), (1.3, "bfloat16", 0.1)]
)
def test_what_was_drawn_is_what_is_learned(
    eager: Transformer, tokenizer: Tokenizer, temperature: float, dtype: Any, bound: float
) -> None:
    """The engine's log-probabilities are the trainer's, at the temperature; the end that was drawn is among them."""
    config = RolloutConfig(answers=4, max_tokens=20, temperature=temperature, dtype=dtype)
    rollouts = make(eager, tokenizer, config, batch_size=24)
    batch = rollouts.next_batch()
    mask_BT = batch["targets_BT"] != -100
    learned = Policy(eager, temperature, "token", 20).logprobs(eager, batch).detach()
    assert float((learned - batch["sampled_BT"])[mask_BT].abs().max()) < bound
    assert (batch["sampled_BT"][~mask_BT] == 0).all()
    assert mask_BT.sum(1).tolist() == batch["lengths_B"].tolist()
    special = set(tokenizer.special_tokens.values())  # each of them ends an answer
    ended_B = torch.tensor([int(t[m][-1]) in special for t, m in zip(batch["targets_BT"], mask_BT, strict=True)])
    assert ended_B.tolist() == batch["whole_B"].tolist()
    assert 0 < int(ended_B.sum()) < 24
    for ids_T, targets_T, mask_T in zip(batch["ids_BT"], batch["targets_BT"], mask_BT, strict=True):
        both_T = mask_T[:-1] & mask_T[1:]
        assert torch.equal(ids_T[1:][both_T], targets_T[:-1][both_T])


def test_tokens_are_never_encoded_again(eager: Transformer, tokenizer: Tokenizer) -> None:
    """Drawn tokens are often not those that their text would be encoded as: it is the drawn ones that are learned."""
    rollouts = make(eager, tokenizer, RolloutConfig(answers=8, max_tokens=20, temperature=2.0), batch_size=48)
    batch, other = rollouts.next_batch(), 0
    for targets_T in batch["targets_BT"]:
        drawn = [t for t in targets_T[targets_T != -100].tolist() if t not in tokenizer.special_tokens.values()]
        other += tokenizer.encode_ordinary(tokenizer.decode(drawn)) != drawn
    assert other > 5


def test_prompts_come_in_turn_and_groups_stay_together(eager: Transformer, tokenizer: Tokenizer) -> None:
    rollouts = make(eager, tokenizer, RolloutConfig(answers=4, max_tokens=4), batch_size=12)
    seen = []
    for _ in range(4):
        batch = rollouts.next_batch()
        starts = [
            tuple(ids[: int((t != -100).int().argmax()) + 1].tolist())
            for ids, t in zip(batch["ids_BT"], batch["targets_BT"], strict=True)
        ]
        assert all(len(set(starts[i : i + 4])) == 1 for i in (0, 4, 8))
        seen += starts[::4]
    assert len(set(seen[:6])) == len(set(seen[6:])) == 6  # each once in a pass
    assert seen[:6] != seen[6:]


def test_a_rollout_goes_on_in_its_middle(eager: Transformer, tokenizer: Tokenizer) -> None:
    """Every state, through JSON, gives the batches that would have come: also after one of several steps."""
    config = RolloutConfig(answers=4, mini_batches=2, epochs=2, max_tokens=8)
    drawn = torch.zeros(1)

    def extend(rows: Any) -> dict[str, torch.Tensor]:
        drawn.add_(1)  # what was measured by weights that have moved since can't be measured again
        return {"measured_BT": rows["sampled_BT"] * float(drawn)}

    straight = make(eager, tokenizer, config, 8, extend=extend)
    states, batches = [json.dumps(straight.state_dict())], []
    for _ in range(9):
        batches.append(straight.next_batch())
        states.append(json.dumps(straight.state_dict()))
    for place in (1, 3, 4, 6):
        drawn.fill_((place + 3) // 4)
        resumed = make(eager, tokenizer, config, 8, extend=extend)
        resumed.load_state_dict(json.loads(states[place]))
        for expected in batches[place:]:
            found = resumed.next_batch()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)
    rows = torch.cat([torch.cat([b["rewards_B"] for b in batches[i : i + 2]]) for i in (0, 2)]).view(2, -1)
    assert torch.equal(rows[0].sort().values, rows[1].sort().values)  # both passes have all answers
    assert not torch.equal(rows[0], rows[1])


def test_rewards_that_fail_are_counted_and_left_out(
    eager: Transformer, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0

    def score(numbers: Sequence[int], answers: Sequence[str]) -> list[float | None]:
        nonlocal calls
        calls += 1
        if len(answers) == 1 and calls % 4 == 0:
            raise ZeroDivisionError("no reward")
        if len(answers) > 1:
            raise ValueError("one of them")
        return [(None, math.nan, math.inf, 0.5)[calls % 4]]

    rollouts = make(eager, tokenizer, RolloutConfig(answers=4, max_tokens=4), 16, score=score)
    batch = rollouts.next_batch()
    learned_B = (batch["targets_BT"] != -100).any(1)
    assert torch.equal(learned_B, ~batch["rewards_B"].isnan())
    assert batch["rewards_B"][learned_B].tolist() == [0.5] * 4
    said = capsys.readouterr().err
    assert "12 of 16 answers have no usable reward" in said
    assert rollouts.unscored == rollouts.state_dict()["unscored"] == 12
    assert "ZeroDivisionError: no reward" in said
    with pytest.raises(UserError):
        guarded(lambda *_: (_ for _ in ()).throw(UserError("the settings are wrong")), [0, 1], ["a", "b"])


def test_truncated_answers_by_choice(eager: Transformer, tokenizer: Tokenizer) -> None:
    kept = make(eager, tokenizer, RolloutConfig(answers=4, max_tokens=12), 24).next_batch()
    masked = make(eager, tokenizer, RolloutConfig(answers=4, max_tokens=12, truncated="mask"), 24).next_batch()
    whole_B = kept["whole_B"]
    assert 0 < int(whole_B.sum()) < 24
    assert (kept["targets_BT"] != -100).any(1).all()
    assert torch.equal((masked["targets_BT"] != -100).any(1), whole_B)
    policy = Policy(eager, 1.0, "sequence", 12)
    assert policy.count(masked) == int(whole_B.sum())  # they are not in the denominator either
    late = make(eager, tokenizer, RolloutConfig(answers=4, max_tokens=12, overlong=6), 24).next_batch()
    penalty_B = torch.tensor([overlong_penalty(int(n), 12, 6) for n in kept["lengths_B"]])
    assert torch.allclose(late["rewards_B"], kept["rewards_B"] + penalty_B)
    assert torch.equal(late["scores_B"], kept["scores_B"])
    assert torch.equal(late["deviations_B"], kept["deviations_B"])
    assert [overlong_penalty(n, 12, 6) for n in (3, 6, 9, 12)] == [0, 0, -0.5, -1]


def test_groups_that_teach_nothing_are_replaced(eager: Transformer, tokenizer: Tokenizer) -> None:
    asked: list[int] = []

    def score(numbers: Sequence[int], answers: Sequence[str]) -> list[float | None]:
        asked.extend(numbers[::4])
        return [float(len(a) % 2) if n % 2 else 1.0 for n, a in zip(numbers, answers, strict=True)]  # even: all right

    config = RolloutConfig(answers=4, max_tokens=8, tries=6)
    batch = make(eager, tokenizer, config, 8, score=score).next_batch()
    assert (batch["deviations_B"] > 0).all()
    assert len(asked) > 2
    hopeless = make(eager, tokenizer, config, 8, score=lambda numbers, answers: [0.0] * len(answers))
    batch = hopeless.next_batch()
    assert hopeless.asked == 12  # it ends, and what is left carries no loss
    assert (batch["targets_BT"] == -100).all()
    assert (batch["scores_B"] == 0).all()  # figures still tell what they were


def test_what_is_right_is_so_before_the_penalty(eager: Transformer, tokenizer: Tokenizer) -> None:
    """Overlong answers that are right are still alike, good enough to be learned from, and counted as right."""
    config = RolloutConfig(answers=4, max_tokens=8, overlong=7, tries=2)
    alike = make(eager, tokenizer, config, 8, score=lambda numbers, answers: [1.0] * len(answers))
    batch = alike.next_batch()
    assert alike.asked == 4
    assert (batch["targets_BT"] == -100).all()
    rollouts = make(eager, tokenizer, replace(config, tries=1), 8, score=alike.score)
    batch = rollouts.next_batch()
    assert (batch["rewards_B"] < 1).any()
    policy = Policy(eager, 1.0, "token", 8).train()
    policy(**batch, **policy.extend(batch, None))  # type: ignore[arg-type]
    assert policy.noted["right"] == policy.noted["reward"] == (8, 8)
    policy.rewards = lambda tasks, answers: [2.0] * len(answers)
    policy.noted.clear()
    policy(**batch, **policy.extend(batch, None))  # type: ignore[arg-type]
    assert "right" not in policy.noted
    settings: Any = SimpleNamespace(rollouts=config, good=1.0)
    assert (Experts(eager, settings).extend(batch, None)["targets_BT"] != -100).any(1).all()  # type: ignore[arg-type]


def test_sizes_that_do_not_fit(eager: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"multiple of rollouts\.answers"):
        make(eager, tokenizer, RolloutConfig(answers=5), 16)
    with pytest.raises(UserError, match="ranks"):
        make(eager, tokenizer, RolloutConfig(answers=5), 15, share=(0, 2))
    for wrong in ({"answers": 0}, {"temperature": 0.0}, {"overlong": 300}, {"tries": 0}):
        with pytest.raises(UserError):
            RolloutConfig(**wrong)
    assert not {"top_p", "top_k", "min_p"} & set(vars(RolloutConfig()))  # they would make other log-probabilities


def test_the_usual_answers_are_as_before(eager: Transformer, tokenizer: Tokenizer) -> None:
    """Where training does not ask, log-probabilities stay those before the temperature, without that of the end."""
    from fromzero.inference.engine import Engine
    from fromzero.inference.request import Request

    sampling = SamplingConfig(temperature=0.5, top_p=1.0, max_tokens=20, n=4, logprobs=0, seed=5)
    found = Engine(eager, tokenizer).answers([Request("a", tuple(tokenizer.encode_ordinary("The")), sampling)])
    for outputs in found.values():
        tokens = [t for o in outputs for t in o.tokens]
        noted = [n for o in outputs for n in o.logprobs]
        assert [n.token for n in noted] == tokens
        ids = torch.tensor([[*tokenizer.encode_ordinary("The"), *tokens]])
        exact = eager(ids)[0].log_softmax(-1)[-len(tokens) - 1 : -1].gather(1, ids[0, -len(tokens) :, None])[:, 0]
        assert exact.tolist() == pytest.approx([n.logprob for n in noted], abs=1e-4)
