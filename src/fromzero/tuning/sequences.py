"""Prompts with two answers each -> rows of token ids, batches of them, and the log-probabilities of the answers.

R rows of all or P of a batch, each with 2 sequences of up to T tokens: the chosen and the rejected answer.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromzero.console import say
from fromzero.dataset.formats import Judged, Messages, Preference
from fromzero.dataset.pairs import pad
from fromzero.dataset.position import check_share, check_state
from fromzero.dataset.sources import Tally, bring, read_judged, read_preferences
from fromzero.dataset.splits import load_splits
from fromzero.errors import UserError
from fromzero.model import Transformer
from fromzero.model.linear_loss import IGNORE
from fromzero.tokenizer import Tokenizer

ROWS_AT_ONCE = 16


class Answered(NamedTuple):
    """A prompt with an answer, up to the token that ends it."""

    ids_T: NDArray[np.int64]
    targets_T: NDArray[np.int64]
    """The next id where it is the answer's, else -100."""


Row = tuple[Answered, ...]
"""Mostly of two."""


class Encoder:
    """Encodes prompts with their answers, and counts what it cuts and drops."""

    def __init__(self, tokenizer: Tokenizer, longest: int, truncate: Literal["left", "right"] = "left") -> None:
        """longest: tokens of a sequence. truncate: where what is longer loses some, the prompt's beginning or the end
        of the answer.
        """
        self.tokenizer, self.longest, self.truncate = tokenizer, longest, truncate
        self.counts: Counter[str] = Counter()
        """What was cut and dropped, in words."""

    def __call__(self, prompt: Messages, answer: Messages) -> Answered:
        """One conversation by the chat template, whose answer has the ids that a model says after the prompt.

        A tokenizer without template has both as texts, each encoded alone, between the ends of two documents.
        """
        tokenizer = self.tokenizer
        if tokenizer.chat_template:
            learned = [i >= len(prompt) for i in range(len(prompt) + len(answer))]
            ids, mask = tokenizer.chat_template.encode_learned(tokenizer, prompt + answer, learned)
        else:
            texts = ["\n\n".join(m.get("content") or "" for m in side) for side in (prompt, answer)]
            asked, said = map(tokenizer.encode_ordinary, texts)
            ids = [tokenizer.end_of_text, *asked, *said, tokenizer.end_of_text]
            mask = [i > len(asked) for i in range(len(ids))]
        end = len(mask) - mask[::-1].index(True) if any(mask) else 0
        self.counts["sequences were cut"] += end > self.longest
        start = max(0, end - self.longest) if self.truncate == "left" else 0
        kept = slice(start, min(end, start + self.longest))
        ids_T, said_T = np.array(ids[kept]), np.array(mask[kept])
        return Answered(ids_T, np.append(np.where(said_T[1:], ids_T[1:], IGNORE), IGNORE))

    def row(
        self, first: tuple[Messages, Messages], second: tuple[Messages, Messages], apart: bool = True
    ) -> Row | None:
        """Two prompts with their answers; None, counted, where an answer is cut off whole, or both are the same.

        apart: whether both may not be the same.
        """
        sides = self(*first), self(*second)
        if any((side.targets_T == IGNORE).all() for side in sides):
            self.counts["rows were dropped: nothing is left of an answer"] += 1
        elif apart and np.array_equal(sides[0].ids_T, sides[1].ids_T):
            self.counts["rows were dropped: both sides are equal"] += 1
        else:
            return sides
        return None

    def notes(self) -> list[str]:
        """What was cut and dropped, a sentence each."""
        return [f"{count:,} {what}" for what, count in self.counts.items() if count]


class Rows(NamedTuple):
    """Rows, and what is dealt beside each: tensors with all rows first."""

    rows: Sequence[Row]
    beside: dict[str, Tensor]


def load_rows(encoder: Encoder, path: Path, judged: bool = False) -> tuple[Rows, Rows, list[Messages]]:
    """The rows to learn from, those that are held out, and the prompts of these; what was cut and dropped is said.

    judged: whether they are answers that are good or bad by themselves. Raises UserError when nothing is left.
    """
    read, make = cast(Any, (read_judged, judged_rows) if judged else (read_preferences, pair_rows))
    splits = load_splits(bring(path), read, tally=(tally := Tally()))
    train, held_out = make(encoder, splits["train"]), make(encoder, splits["validation"])
    for note in encoder.notes():
        say(note)
    encoder.counts.update({f"records were dropped: {reason}": count for reason, count in tally.dropped.items()})
    if not train.rows:
        raise UserError(f"{path} has nothing left to learn from; see what was dropped")
    return train, held_out, [record.prompt for record in splits["validation"]]


def pair_rows(encoder: Encoder, pairs: Sequence[Preference]) -> Rows:
    """Chosen and rejected answers, and beside them `margin_P`, 0 where none is given."""
    found = [(encoder.row((p.prompt, p.chosen), (p.prompt, p.rejected)), p.margin or 0.0) for p in pairs]
    kept = [(row, margin) for row, margin in found if row]
    return Rows([row for row, _ in kept], {"margin_P": torch.tensor([margin for _, margin in kept])})


def judged_rows(encoder: Encoder, judged: Sequence[Judged]) -> Rows:
    """Each answer, and the next one that is to another prompt after the prompt of this; beside them `good_P`.

    Both may have the same words: what other prompts are answered by is what the KL estimate is of.
    """
    size, found = len(judged), []
    partners: list[int | None] = [None] * size
    for place in reversed(range(2 * size)):  # twice round, as what follows the last one is at the beginning
        own, after = place % size, (place + 1) % size
        partners[own] = after if judged[after].prompt != judged[own].prompt else partners[after]
    for one, partner in zip(judged, partners, strict=True):
        if partner is None:
            encoder.counts["rows were dropped: there is no answer to another prompt"] += 1
        elif row := encoder.row((one.prompt, one.completion), (one.prompt, judged[partner].completion), apart=False):
            found.append((row, one.good))
    return Rows([row for row, _ in found], {"good_P": torch.tensor([good for _, good in found], dtype=torch.bool)})


class RowLoader:
    """Deals rows, in another order each epoch; a batch may reach into the next one. Ranks share the same batches."""

    def __init__(self, rows: Rows, batch_size: int, seed: int = 0, rank: int = 0, ranks: int = 1) -> None:
        """batch_size: of all ranks; rank r of n has rows r, r + n, ... of it. Raises UserError where that is uneven."""
        check_share(batch_size, 1, rank, ranks, "train.batch_size")
        self.rows, self.batch_size, self.seed, self.share = rows, batch_size, seed, slice(rank, None, ranks)
        self.position = 0
        """Batches dealt."""

    def next_batch(self) -> dict[str, Tensor]:
        """See `deal`."""
        size = len(self.rows.rows)
        places = np.arange(self.batch_size)[self.share] + self.position * self.batch_size
        self.position += 1
        orders = {n: np.random.default_rng([self.seed, n]).permutation(size) for n in {*(places // size).tolist()}}
        return deal(self.rows, np.array([orders[place // size][place % size] for place in places.tolist()]))

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the same on any number of ranks."""
        return {"position": self.position, "rows": len(self.rows.rows), "batch": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises UserError when it is for other rows, another batch size or seed."""
        check_state(self.state_dict(), state, {"rows": "rows", "batch": "train.batch_size", "seed": "seed"})
        self.position = int(state["position"])


def deal(rows: Rows, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
    """Rows by their numbers: `ids_BT` and `targets_BT`, (P, 2, T), padded at the right, and what is beside them."""
    sides = [side for number in chosen for side in rows.rows[number]]
    ids, _ = pad([side.ids_T for side in sides], 0)
    targets, _ = pad([side.targets_T for side in sides], IGNORE)
    pair = {"ids_BT": ids, "targets_BT": targets}
    beside = {name: tensor[torch.from_numpy(chosen)] for name, tensor in rows.beside.items()}
    return {name: torch.from_numpy(t).view(len(chosen), len(rows.rows[0]), -1) for name, t in pair.items()} | beside


def answer_logprobs(model: Transformer, ids_BT: Tensor, targets_BT: Tensor, keep_BT: Tensor | None = None) -> Tensor:
    """log p of each answer, summed over its tokens: (..., T) -> (...) in nats, fp32, with gradients.

    All go through the model at once, and the output layer sees the places with targets alone. keep: True for what is no
    padding; needed where that is at the left.
    """
    ids, targets = ids_BT.flatten(0, -2), targets_BT.flatten(0, -2)
    given: dict[str, Any] = {} if keep_BT is None else {"keep_BT": keep_BT.flatten(0, -2)}
    x_BTD = model.hidden(ids, **given)
    said = targets != IGNORE
    logprobs_N = model.head.logprobs(x_BTD[said], model.head_weight, targets[said])
    return (
        torch.zeros_like(targets, dtype=torch.float32).masked_scatter(said, logprobs_N).sum(-1).view(ids_BT.shape[:-1])
    )


@torch.no_grad()
def measured(model: Transformer, rows: Rows, measure: Callable[..., Tensor] = answer_logprobs) -> Tensor:
    """measure(model, ids, targets) of all rows, (R, 2) on the CPU, those of similar length together."""
    model.eval()
    found_R2 = torch.empty(len(rows.rows), len(rows.rows[0]) if rows.rows else 2)
    order = np.argsort([max(len(side.ids_T) for side in row) for row in rows.rows], kind="stable")
    for start in range(0, len(order), ROWS_AT_ONCE):
        batch = deal(rows, some := order[start : start + ROWS_AT_ONCE])
        found = measure(model, batch["ids_BT"].to(model.device), batch["targets_BT"].to(model.device))
        found_R2[torch.from_numpy(some)] = found.cpu()
    return found_R2
