"""Beam search: equal to transformers; equal to trying everything; equal to greedy with one beam."""

import itertools
import math

import numpy as np
import pytest
import torch

from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.pairs import pair_batch
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.beam import Answer, BeamConfig, Stop, beam_search, search_answers
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.linear_loss import linear_cross_entropy
from tests.t5_peer import t5

STOPS = frozenset(range(1, 36, 3))
DECODER = ModelConfig(vocab_size=50, context=16, layers=2, width=24, heads=4, kv_heads=2)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("stop", "theirs"), [("full", True), ("likely", False), ("certain", "never")])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_answers_are_those_of_transformers(version: str, stop: Stop, theirs: bool | str, penalty: float) -> None:
    peer, model = t5(version)
    for beams, seed in ((2, 0), (3, 1), (4, 2)):
        source = torch.randint(2, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
        expected = peer.generate(
            input_ids=source, num_beams=beams, num_return_sequences=beams, length_penalty=penalty,
            early_stopping=theirs, max_new_tokens=10, do_sample=False, return_dict_in_generate=True,
            output_scores=True, eos_token_id=sorted(STOPS), decoder_start_token_id=0, pad_token_id=0,
        )  # fmt: skip
        config = BeamConfig(beams, beams, 10, penalty, stop=stop)
        found = search_answers(model, [0], config, STOPS, source[0].tolist())
        for answer, sequence, score in zip(found, expected.sequences, expected.sequences_scores, strict=True):
            ids = sequence.tolist()[1:]
            ended = next((at for at, token in enumerate(ids) if token in STOPS), len(ids))
            assert answer.tokens == ids[:ended]
            assert answer.score == pytest.approx(float(score), abs=1e-4, rel=1e-5)


def test_who_waits_longer_finds_better_answers() -> None:
    source = torch.randint(2, 60, (9,), generator=torch.Generator().manual_seed(0)).tolist()
    full, likely, certain = (
        search_answers(t5("1.1")[1], [0], BeamConfig(2, 1, 10, 2.0, stop=stop), STOPS, source)[0].score
        for stop in ("full", "likely", "certain")
    )
    assert full < likely < certain


def test_enough_beams_find_the_best_of_all_answers() -> None:
    """Five tokens, answers of at most four: every one is tried by hand, with each length and penalty."""
    table = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 2  # logits after a token; row 5: at first
    logs = table.log_softmax(-1)

    def everything(config: BeamConfig) -> list[Answer]:
        answers = []
        for tokens in itertools.chain(*(itertools.product(range(1, 5), repeat=n) for n in range(5))):
            path = [*tokens, 0] if len(tokens) < 4 else list(tokens)
            log = math.fsum(float(logs[a, b]) for a, b in itertools.pairwise([5, *path]))
            answers.append(Answer(list(tokens), config.score(log, len(path))))
        return sorted(answers, key=lambda answer: -answer.score)

    for penalty, length in itertools.product((0.0, 0.6, 1.5), ("tokens", "gnmt")):
        config = BeamConfig(320, 3, 4, penalty, length, "certain")  # type: ignore[arg-type]
        found = beam_search(table[5], lambda _, tokens: table[tokens], config, frozenset([0]))
        for ours, best in zip(found, everything(config), strict=False):
            assert ours.tokens == best.tokens
            assert ours.score == pytest.approx(best.score, abs=1e-5)
        assert len(found) == 3


def test_the_penalty_of_gnmt() -> None:
    config = BeamConfig(length_penalty=0.6, length="gnmt")
    assert config.score(-3.0, 7) == pytest.approx(-3.0 / ((5 + 7) ** 0.6 / 6**0.6))


def test_one_beam_is_greedy() -> None:
    model = Transformer(DECODER, seed=2)
    prompt = [3, 4, 5]
    greedy = list(generate_tokens(model, prompt, SamplingConfig(temperature=0, max_tokens=9)))
    assert search_answers(model, prompt, BeamConfig(1, max_tokens=9, stop="full"))[0].tokens == greedy
    stop = frozenset(greedy[4:5])
    until = list(generate_tokens(model, prompt, SamplingConfig(temperature=0, max_tokens=9), stop))
    assert search_answers(model, prompt, BeamConfig(1, max_tokens=9, stop="full"), stop)[0].tokens == until


def test_the_cache_follows_the_beams() -> None:
    """The same answers and scores as when everything is computed anew for each token."""
    model = Transformer(DECODER, seed=2).eval()
    prompt, config = [3, 4, 5], BeamConfig(5, 5, 8, 1.0)
    rows = torch.tensor([prompt])

    def anew(parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows = torch.cat([rows[parents], tokens[:, None]], 1)
        return model(rows)[:, -1]

    with torch.inference_mode():
        plain = beam_search(model(rows)[0, -1], anew, config, STOPS)
    found = search_answers(model, prompt, config, STOPS)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in plain]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in plain], abs=1e-5)


def test_a_model_that_learns_to_write_backwards_answers_backwards() -> None:
    """Pairs, loss, encoder-decoder and search together."""
    config = ModelConfig(
        vocab_size=8, context=8, layers=1, width=32, heads=4, kind="encoder_decoder", positions="learned"
    )
    model, random = EncoderDecoder(config), np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        rows = [random.integers(2, 8, random.integers(1, 5)) for _ in range(64)]
        source, keep, inputs, targets = map(torch.from_numpy, pair_batch([(row, row[::-1]) for row in rows], 0, 1, 0))
        states = model.hidden(source, inputs, keep).flatten(0, 1)
        optimizer.zero_grad()
        (linear_cross_entropy(states, model.head_weight, targets.flatten()) / (targets != NO_LOSS).sum()).backward()
        optimizer.step()
    rows = [random.integers(2, 8, 1 + number % 4) for number in range(20)]
    answers = [search_answers(model, [0], BeamConfig(3), frozenset([1]), [*row.tolist(), 1])[0].tokens for row in rows]
    assert sum(answer == row[::-1].tolist() for answer, row in zip(answers, rows, strict=True)) >= 18


def test_a_prefix_changes_the_answer_and_the_context_ends_it() -> None:
    model = Transformer(DECODER, seed=2)
    prompt = list(range(2, 12))
    causal, both = (search_answers(model, prompt, BeamConfig(), prefix=prefix)[0] for prefix in (False, True))
    assert causal.score != both.score
    assert len(causal.tokens) == 6


def test_what_cannot_be_searched_is_told() -> None:
    model = Transformer(DECODER)
    for wrong in ([], list(range(16))):
        with pytest.raises(UserError, match="give 1 to 15"):
            search_answers(model, wrong, BeamConfig())
    with pytest.raises(UserError, match="at least one token"):
        search_answers(t5("1.0")[1], [0], BeamConfig())
    with pytest.raises(UserError, match=r"best \(5\) goes from 1 to beams \(4\)"):
        BeamConfig(best=5)
    with pytest.raises(UserError, match=r"max_tokens from 1 \(0\)"):
        BeamConfig(max_tokens=0)
