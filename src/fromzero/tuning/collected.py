"""`fromzero finetune answers`: a teacher's answers to prompts, as conversations to tune on (Kim and Rush 2016).

The teacher is a model on this machine, or any server that speaks OpenAI's protocol. Answers that are there are kept
when a run that was cut off goes on.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build, digest_source
from fromzero.console import progress, say
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task
from fromzero.evaluation.verifiers import Guarded, make_verifier
from fromzero.files import write_text
from fromzero.inference import SamplingConfig
from fromzero.inference.batch import Record, answer_all, finished_lines, read_prompts
from fromzero.inference.client import RefusedError, Server, request_fields
from fromzero.inference.engine import EngineConfig
from fromzero.inference.opening import check_model, open_engine
from fromzero.inference.request import Request
from fromzero.locations import masked
from fromzero.tuning.grading import prompt_ids

SCRATCH = "asked"
LONGEST = 1 << 20
"""Characters and events of an answer; a server that sends more has no end."""
OF_A_PROMPT = ("HTTP 400", "HTTP 413", "HTTP 422")
"""Refusals that a prompt is to blame for; any other ends the run."""


@dataclass(frozen=True)
class AnswersConfig:
    """Who answers what."""

    prompts: Path
    """A prompt a line, or JSON lines with "prompt" or "messages", and "answer" where the verifier compares with one."""
    output: Path
    """Folder for the conversations."""
    teacher: Path | None = None
    """The model that answers: a folder, a GGUF file, or the name of a downloaded one."""
    url: str | None = None
    """Or a server that does, such as http://127.0.0.1:8000; its key is in FROMZERO_API_KEY."""
    served: str | None = None
    """What the server calls the model; null takes the first that it names."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.7, top_p=0.95))
    """How tokens are chosen; n answers a prompt, of which equal ones count once."""
    verifier: dict[str, Any] | None = None
    """What an answer must pass to be kept, such as {"kind": "number"}."""
    concurrent: int = 16
    """Prompts that a server is asked at once."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How a model on this machine is run."""

    def __post_init__(self) -> None:
        if (self.teacher is None) == (self.url is None) or self.concurrent < 1:
            raise UserError("name a teacher, or the url of a server; and concurrent must be at least 1")


def collect_answers(config: AnswersConfig) -> Artifact:
    """Ask all prompts, and write what is kept; skipped when up to date. Raises UserError."""
    if not config.prompts.is_file():
        raise UserError(f"{config.prompts} is no file; name one with a prompt a line")
    inputs = {"prompts": digest_source(config.prompts)}
    if config.teacher:
        inputs["teacher"] = digest_source(check_model(config.teacher))
    ignore = ("prompts", "output", "teacher", "concurrent", "engine")
    make = lambda folder: _collect(config, folder)  # noqa: E731
    return build(config.output, "conversations", config, inputs, make, ignore=ignore, scratch=SCRATCH)


def _collect(config: AnswersConfig, folder: Path) -> Mapping[str, Any]:
    verifier = Guarded(make_verifier(config.verifier)) if config.verifier else None
    with config.prompts.open(encoding="utf-8-sig") as lines:
        records = read_prompts(lines, str(config.prompts))
    (folder / SCRATCH).mkdir(exist_ok=True)
    file = folder / SCRATCH / "answers.jsonl"
    done = finished_lines(file, records, SCRATCH)
    made = (_of_server if config.url else _of_model)(config, records[done:])
    with file.open("a", encoding="utf-8") as out, progress("answers", len(records), "prompts", done) as report:
        for number, result in enumerate(made, done):
            out.write(json.dumps({**records[number], **result, "run": SCRATCH}, ensure_ascii=False) + "\n")
            out.flush()
            report(number + 1)
    counts, kept = Counter[str](), list[str]()
    with file.open(encoding="utf-8") as lines:
        answered = list(map(json.loads, lines))
    for line in answered:
        counts["prompts without an answer"] += "error" in line
        for text, flaw in _judged(line, verifier):
            counts[flaw or "kept"] += 1
            if not flaw:
                messages = [*_messages(line), {"role": "assistant", "content": text}]
                kept.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    say(", ".join(f"{name}: {count:,}" for name, count in counts.items()))
    if not kept:
        raise UserError(f"no answer is left to learn from; {file} has what was answered")
    write_text(folder / "train.jsonl", "".join(kept))
    return {"prompts": len(records), "answers": dict(counts), "unscored": dict(verifier.failures) if verifier else {}}


def _judged(line: Record, verifier: Guarded | None) -> Iterator[tuple[str, str]]:
    """Each answer of a prompt, and why it is not kept; '' if it is."""
    task, seen = Task(tuple(_messages(line)), str(line.get("answer", ""))), set[str]()
    for answer in line.get("answers", ()):
        text = answer["text"].strip()
        flaw = "empty" if not text else "cut off" if answer["reason"] != "stop" else "repeated" if text in seen else ""
        seen.add(text)
        if not flaw and verifier and (verifier(text, task) or 0) < 1:
            flaw = "wrong"
        yield text, flaw


def _of_model(config: AnswersConfig, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    assert config.teacher
    engine = open_engine(config.teacher, config=config.engine)

    def prepare(name: str, record: Record) -> Request:
        return Request(name, tuple(prompt_ids(engine.tokenizer, _messages(record))), config.sampling)

    return answer_all(engine, records, prepare, None)


def _of_server(config: AnswersConfig, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """In their order, so many at once."""
    server, coming = Server(config.url or ""), iter(records)
    pending = deque[asyncio.Task[dict[str, Any]]]()
    with asyncio.Runner() as runner:
        name = runner.run(server.named(config.served, "--served"))
        body = {"model": name, "n": config.sampling.n, **request_fields(config.sampling)}

        async def oldest() -> dict[str, Any] | None:
            while len(pending) < config.concurrent and (record := next(coming, None)) is not None:
                pending.append(asyncio.create_task(_ask(server, {**body, "messages": _messages(record)})))
            return await pending.popleft() if pending else None

        while (made := runner.run(oldest())) is not None:
            yield made


async def _ask(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """{"answers": [...]} as answer_all has them, or {"error": why}. Raises RefusedError where no prompt is to blame."""
    answers, left = {number: {"text": "", "reason": "cut off"} for number in range(body["n"])}, LONGEST * body["n"]
    try:
        async for event in server.events("/chat/completions", body):
            for choice in event.get("choices") or ():
                answer, said = answers[choice["index"]], (choice.get("delta") or {}).get("content") or ""
                answer["text"] += said
                answer["reason"] = choice.get("finish_reason") or answer["reason"]
                left -= len(said)
            if (left := left - 1) < 0:
                raise RefusedError(f"{masked(server.url)} does not end an answer", "too long")
    except (LookupError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RefusedError(f"{masked(server.url)} does not speak OpenAI's protocol ({why})", "no protocol") from error
    except RefusedError as error:
        if error.kind not in OF_A_PROMPT:
            raise
        return {"error": str(error)}
    return {"answers": list(answers.values())}


def _messages(record: Record) -> list[dict[str, Any]]:
    return list(record["messages"]) if "messages" in record else [{"role": "user", "content": record["prompt"]}]
