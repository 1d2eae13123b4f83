"""`fromzero generate MODEL --prompt TEXT`, or `--input FILE --output FILE`: what a model makes of prompts."""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.commands import Verb
from fromzero.console import progress, say, write_stream
from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.files import digest_of
from fromzero.inference import SamplingConfig
from fromzero.inference.batch import Prepare, Record, answer_all, finished_lines, read_prompts, search_all
from fromzero.inference.classifying import Classifier
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.opening import open_engine, start_id
from fromzero.inference.request import Request
from fromzero.inference.sampling import Constraint
from fromzero.model import EncoderDecoder
from fromzero.tuning.grading import prompt_ids

_MEANT = (
    "model",
    "adapters",
    "chat",
    "sampling",
    "beams",
    "json_schema",
    "regex",
    "choices",
)  # settings that change answers


@dataclass(frozen=True)
class GenerateConfig:
    """What goes on from what."""

    model: Path
    """Folder or GGUF file of a model, or the name of a downloaded one."""
    adapters: Path | None = None
    """Folder of adapters that the model is to have."""
    prompt: str = ""
    """The beginning; empty begins a new document. To an encoder-decoder, what it reads."""
    input: Path | None = None
    """File with a prompt a line, or JSON lines with "prompt" or "messages"; - reads standard input."""
    output: Path | None = None
    """File for JSON lines; what is there already is kept, and not computed again. null: standard output."""
    classify: tuple[str, ...] | None = None
    """Texts whose classes are told, by a model that was tuned for it; without any, those of `input`, whose JSON lines
    may have "text" in place of "prompt"."""
    chat: bool = False
    """Whether prompts are questions, put to the model as its chat template says."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How tokens are chosen."""
    beams: int = 0
    """Search for the likeliest answers with so many beams, in place of drawing tokens; 0 draws."""
    json_schema: Path | None = None
    """File with a JSON schema that answers must follow."""
    regex: str | None = None
    """Regular expression that answers must match as a whole."""
    choices: tuple[str, ...] = ()
    """Texts of which an answer must be one."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much is computed at once."""
    device: DeviceName = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        rules = [rule for rule in (self.json_schema, self.regex, self.choices or None) if rule is not None]
        if len(rules) + bool(self.beams) > 1 or (self.beams and (self.sampling.stop or self.sampling.logprobs)):
            raise UserError("one of json_schema, regex, choices and beams at a time; beams without stop and logprobs")
        if self.beams and self.sampling.n > self.beams:
            raise UserError(f"n is {self.sampling.n}, and {self.beams} beams give at most {self.beams} answers")
        if self.input and self.prompt:
            raise UserError("give --prompt or --input, not both")


def run(config: GenerateConfig) -> None:
    """Write what the model makes of the prompt, or of each line."""
    if config.classify is not None:
        _classify(config, config.classify)
        return
    records = _records(config)
    run_name = digest_of([getattr(config, name) for name in _MEANT])[:12]
    done = finished_lines(config.output, records, run_name) if config.output else 0
    engine = open_engine(config.model, config.device, config.engine, config.adapters)
    prepare, rule, rest = _prepare(config, engine), _rule(config, engine), records[done:]
    streams = not config.input and not config.output and not config.beams
    if streams and config.sampling.n == 1 and config.sampling.logprobs is None:
        _stream(engine, prepare("", records[0]), rule, config.prompt)
        return
    made = search_all(engine, rest, prepare, config.beams) if config.beams else answer_all(engine, rest, prepare, rule)
    failed, file = 0, config.output.open("a", encoding="utf-8") if config.output else nullcontext(sys.stdout)
    with file as out, progress("answers", len(records), "prompts", done) as report:
        for number, result in enumerate(made, done):
            out.write(json.dumps({**records[number], **result, "run": run_name}, ensure_ascii=False) + "\n")
            out.flush()
            failed += "error" in result
            report(number + 1)
    if failed:
        message = f"{failed} of {len(rest)} prompts could not be answered; their lines say why"
        if failed == len(rest):
            raise UserError(message)
        say(message)


def _classify(config: GenerateConfig, texts: tuple[str, ...]) -> None:
    """Write a JSON object for each text: its class, and the probabilities of all."""
    if not texts and not config.input:
        raise UserError("there is nothing to classify; give --classify TEXT, or --input FILE")
    records = [{"prompt": text} for text in texts] or _records(config)
    if any("prompt" not in record for record in records):
        raise UserError(f"{config.input} has messages; to classify, give texts")
    classifier = Classifier.open(config.model, config.device)
    found = classifier([record["prompt"] for record in records]).tolist()
    with config.output.open("w", encoding="utf-8") if config.output else nullcontext(sys.stdout) as out:
        for record, probabilities in zip(records, found, strict=True):
            told = {label: round(p, 6) for label, p in zip(classifier.labels, probabilities, strict=True)}
            said = {"text": record["prompt"], "label": max(told, key=told.__getitem__), "probabilities": told}
            out.write(json.dumps(said, ensure_ascii=False) + "\n")


def _records(config: GenerateConfig) -> list[dict[str, Any]]:
    if config.input is None:
        return [{"prompt": config.prompt}]
    if str(config.input) == "-":
        return read_prompts(sys.stdin, "standard input")
    with config.input.open(encoding="utf-8") as file:
        return read_prompts(file, str(config.input))


def _prepare(config: GenerateConfig, engine: Engine) -> Prepare:
    """What makes a request of a record."""
    tokenizer = engine.tokenizer

    def prepare(name: str, record: Record) -> Request:
        if config.chat or "messages" in record:
            messages = record["messages"] if "messages" in record else [{"role": "user", "content": record["prompt"]}]
            return Request(name, tuple(prompt_ids(tokenizer, messages)), config.sampling)
        if isinstance(engine.model, EncoderDecoder):
            source = tokenizer.encode(record["prompt"], add_special_tokens=True)
            return Request(name, (start_id(config.model, tokenizer),), config.sampling, source=tuple(source))
        ids = (tokenizer.end_of_text, *tokenizer.encode_ordinary(record["prompt"]))
        return Request(name, ids, config.sampling, goes_on=bool(record["prompt"]))

    return prepare


def _rule(config: GenerateConfig, engine: Engine) -> Constraint | None:
    """What the answers must look like."""
    schema = None
    if config.json_schema:
        try:
            schema = json.loads(config.json_schema.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{config.json_schema} holds no JSON ({error}); correct it") from None
    if schema is None and config.regex is None and not config.choices:
        return None
    from fromzero.inference.constrain import compile_rule

    choices, goes_on = config.choices or None, not config.chat
    return compile_rule(engine.tokenizer, schema=schema, regex=config.regex, choices=choices, goes_on=goes_on)


def _stream(engine: Engine, request: Request, rule: Constraint | None, prompt: str) -> None:
    """One answer, as it is made."""
    write_stream(prompt if request.goes_on else "")
    engine.submit(request, rule)
    while engine.busy:
        for output in engine.step():
            write_stream(output.text)
            if output.reason == "error":
                raise UserError(output.message)
    write_stream("\n")


_SHORT = ("n", "stop", "seed", "logprobs", "temperature", "max_tokens")
VERB = Verb(GenerateConfig, run, "model", {f"--{name}": f"--sampling.{name}" for name in _SHORT})
