"""Many prompts through the engine: lines in, lines out in the same order, and a run that was cut off goes on."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fromzero.errors import UserError
from fromzero.inference.beam import BeamConfig, search_answers
from fromzero.inference.engine import Engine
from fromzero.inference.request import Output, Overloaded, Request
from fromzero.inference.sampling import Constraint
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.stream import StreamDecoder

Record = Mapping[str, Any]
Prepare = Callable[[str, Record], Request]
"""(id, what a line says) -> what is asked. Raises UserError."""


def read_prompts(lines: Iterable[str], where: str) -> list[dict[str, Any]]:
    """A prompt a line; if the first begins with {, as JSON: {"prompt": TEXT} (or "text") or {"messages": [...]}, and
    what belongs to it. Empty lines are passed over. Raises UserError with the number of a bad one."""
    try:
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not in UTF-8 ({error}); save it as such") from None
    if not numbered or not numbered[0][1].lstrip().startswith("{"):
        return [{"prompt": line.rstrip("\r\n")} for _, line in numbered]
    records = []
    for number, line in numbered:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}, line {number} is no JSON ({error}); correct it") from None
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            record = {"prompt": record["text"]} | record
        if not isinstance(record, dict) or not (isinstance(record.get("prompt"), str) or "messages" in record):
            raise UserError(f'{where}, line {number} should have a "prompt" that is a text, or "messages"')
        records.append(record)
    return records


def finished_lines(output: Path, records: Sequence[Record], run: str) -> int:
    """How many records a file has the answers of; half a line that a kill left at its end is cut off.

    run: what names the settings, in each line. Raises UserError when it holds something else.
    """
    if not output.exists():
        return 0
    with output.open("r+b") as file:
        data = file.read()
        file.truncate(whole := data.rfind(b"\n") + 1)
    lines = data[:whole].splitlines()
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            same = number <= len(records) and found["run"] == run and found.items() >= records[number - 1].items()
        except (ValueError, LookupError, TypeError, AttributeError):
            same = False
        if not same:
            raise UserError(f"{output}, line {number} is no answer to that prompt with these settings; name a new file")
    return len(lines)


def answer_all(engine: Engine, records: Iterable[Record], prepare: Prepare, rule: Constraint | None) -> Iterator[Any]:
    """For each record {"answers": [...]}, or {"error": why}, in their order."""
    coming = deque((str(number), record) for number, record in enumerate(records))
    found: dict[str, list[list[Output]] | UserError] = {}  # in the order in which they came
    while coming or found:
        while coming:
            try:
                engine.submit(request := prepare(*coming[0]), rule)
                found[request.id] = [[] for _ in range(request.sampling.n)]
            except Overloaded:
                break
            except UserError as error:
                found[coming[0][0]] = error
            coming.popleft()
        for output in engine.step():
            outputs = found[output.request]
            assert isinstance(outputs, list)
            outputs[output.index].append(output)
        while found and (made := _whole(next(iter(found.values())), engine.tokenizer)):
            yield made
            del found[next(iter(found))]


def _whole(found: list[list[Output]] | UserError, tokenizer: Tokenizer) -> dict[str, Any] | None:
    if isinstance(found, UserError):
        return {"error": str(found)}
    if not all(outputs and outputs[-1].reason for outputs in found):
        return None
    return {"answers": [_answer(outputs, tokenizer) for outputs in found]}


def _answer(outputs: Sequence[Output], tokenizer: Tokenizer) -> dict[str, Any]:
    last, text = outputs[-1], "".join(output.text for output in outputs)
    made = {"text": text, "tokens": sum(len(output.tokens) for output in outputs), "reason": last.reason}
    if last.message:
        made["error"] = last.message
    if noted := [logprob for output in outputs for logprob in output.logprobs]:
        likeliest = [[[tokenizer.decode([i]), value] for i, value in each.top] for each in noted]
        tokens = [tokenizer.decode([each.token]) for each in noted]
        made["logprobs"] = {"tokens": tokens, "logprobs": [each.logprob for each in noted], "top": likeliest}
    return made


def search_all(engine: Engine, records: Iterable[Record], prepare: Prepare, beams: int) -> Iterator[Any]:
    """The same by beam search: the likeliest answers, with their scores."""
    tokenizer = engine.tokenizer
    ends = frozenset(i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id)
    for record in records:
        try:
            request = prepare("", record)
            config = BeamConfig(beams, request.sampling.n, request.sampling.max_tokens)
            stop_ids = ends.union(request.sampling.stop_ids)
            found = search_answers(engine.model, request.prompt, config, stop_ids, request.source)
            decoder = StreamDecoder(tokenizer, later=request.goes_on)
            texts = [(decoder.feed(answer.tokens) + decoder.flush(), answer) for answer in found]
            yield {"answers": [{"text": text, "tokens": len(a.tokens), "score": a.score} for text, a in texts]}
        except UserError as error:
            yield {"error": str(error)}
