"""A model that judges answers: one by a mark from 0 to 10, two side by side in both orders.

A judge is any function from a prompt to a model's answer. An answer that holds no verdict is `NoScore`, to be counted.
"""

import asyncio
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fromzero.evaluation.answers import NoScore, fold
from fromzero.evaluation.tasks import Task
from fromzero.inference import SamplingConfig
from fromzero.inference.client import RefusedError, Server, request_fields
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request

Judge = Callable[[str], str]
_SAMPLING = SamplingConfig(temperature=0, max_tokens=512)
_MARK = """Question:
{question}

Answer:
{answer}

Judge how well the answer meets the question: right, complete, and clear. Give reasons in a sentence or two, and end
with a line of a mark from 0 (useless) to 10 (nothing to better), in this form:
Mark: 5"""
_PAIR = """Question:
{question}

Answer A:
{one}

Answer B:
{two}

Which answer meets the question better? Neither its place nor its length counts. Give reasons in a sentence or two, and
end with a line in one of these forms:
Better: A
Better: B
Better: neither"""


@cache
def make_judge(model: str, url: str = "") -> Judge:
    """A model of this machine by its folder or name, or one of a server by its name there and the server's address.

    The key of a server is in FROMZERO_API_KEY. Raises UserError.
    """
    if url:
        return lambda prompt: asyncio.run(_served(Server(url), model, prompt))
    engine = open_engine(Path(model))

    def judge(prompt: str) -> str:
        ids = Task(prompt).ids(engine.tokenizer)
        if len(ids) >= engine.model.config.context:
            raise NoScore("too long for the judge")
        return "".join(output.text for output in engine.answers([Request("judge", ids, _SAMPLING)])["judge", 0])

    return judge


def mark(judge: Judge, question: str, answer: str) -> float:
    """The mark of an answer, as a share of the highest. Raises NoScore."""
    found = re.findall(r"Mark\W*(\d+(?:\.\d+)?)", fold(judge(_MARK.format(question=question, answer=answer))))
    if not found or float(found[-1]) > 10:
        raise NoScore("no verdict")
    return float(found[-1]) / 10


def prefer(judge: Judge, question: str, one: str, two: str) -> float:
    """1 where the first answer is better, 0 where the second is, 0.5 for neither. Raises NoScore.

    Judges favour a place (Zheng et al. 2023): it is asked in both orders, and the mean of the verdicts counts.
    """
    wins = 0.0
    for first, second, value in ((one, two, {"A": 1.0, "B": 0.0}), (two, one, {"A": 0.0, "B": 1.0})):
        said = fold(judge(_PAIR.format(question=question, one=first, two=second)))
        if not (found := re.findall(r"Better\W*(A|B|neither)\b", said)):
            raise NoScore("no verdict")
        wins += value.get(found[-1], 0.5)
    return wins / 2


async def _served(server: Server, model: str, prompt: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **request_fields(_SAMPLING)}
    try:
        events = [event async for event in server.events("/chat/completions", body)]
    except RefusedError as error:
        raise NoScore(f"judge: {error.kind}") from error
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices"))
