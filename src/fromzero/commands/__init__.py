"""The command line: `fromzero VERB`, one thin file a verb, and `main`, which finds the verb and reports errors.

A verb's file holds a `VERB`: a settings dataclass and the function that takes it. Only the file of the verb that was
typed is imported, so `fromzero --help` and the verbs that need no tensors start without loading torch.
"""

import dataclasses
import errno
import importlib
import json
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fromzero import __version__
from fromzero.config import dotted, from_arguments
from fromzero.console import console, printable
from fromzero.errors import DISK_FULL, Interrupted, UserError, nearest

__all__ = ["Verb", "main"]

# Verb -> the line that describes it; the module is named after it, blanks and hyphens as underscores.
VERBS = {
    "quickstart": "the whole way on the documents of this machine or your own: corpus, tokenizer, model, chat, report",
    "run": "a chain of stages from a YAML recipe; what is up to date is skipped",
    "corpus build": "documents -> clean, deduplicated text",
    "corpus show": "a page about a corpus: what was kept and dropped, why, and examples at each limit",
    "corpus train-classifier": "examples of good and bad text -> classifier of quality",
    "corpus train-ngrams": "clean text -> language model of n-grams, for the perplexity of documents",
    "tokenizer train": "corpus -> tokenizer of bytes, characters, words or pieces (BPE, WordPiece, Unigram)",
    "tokenizer encode": "text -> token ids, to look at",
    "tokenizer compare": "tokenizers side by side on the same text: tables, and a page with the text as each cuts it",
    "pack": "corpus + tokenizer -> token shards",
    "mix": "tokens of several sources -> mixture for pretraining, by weights, epochs, sizes or phases",
    "pretrain": "token shards or a mixture of them -> base model",
    "finetune questions": "documents -> question and answer pairs to tune on",
    "finetune chat": "base model + conversations -> model that answers",
    "finetune classify": "model + labelled texts -> model that tells classes of texts apart",
    "finetune distill": "model + larger model + conversations -> model that learned the larger one's probabilities",
    "finetune answers": "prompts + a model or a server -> conversations with its answers, to tune on",
    "align tasks": "tasks with their answers, to learn from before practice",
    "align answers": "model + tasks -> pairs of its own better and worse answers, told apart by code",
    "align reward": "pairs of answers -> model that scores answers",
    "align dpo": "model + pairs of answers -> model that gives the better kind (DPO, IPO, KTO, ORPO, SimPO)",
    "align reinforce": "model + tasks -> model that learned from its own answers, the plainest way (REINFORCE)",
    "align expert-iteration": "model + tasks -> model that learned its own right answers",
    "align grpo": "model + tasks -> model that learned from its own answers, each compared with others (GRPO)",
    "align ppo": "model + tasks, or a reward model -> model that learned from its own answers, with values (PPO)",
    "evaluate perplexity": "model + held-out documents -> perplexity and bits per byte",
    "evaluate answers": "questions that code or a judge scores, put to a model, or to two side by side",
    "evaluate speed": "how fast a model answers, here or behind a server: latencies and rates at several loads",
    "generate": "text that goes on from a prompt, or answers to a file of them",
    "chat": "talk to a model in the terminal, here or behind a server",
    "serve": "OpenAI's HTTP interface and a page to chat on, for a model",
    "estimate": "parameters, arithmetic and memory of a model before there is one",
    "embed": "texts -> vectors of their meaning; search in a folder of documents",
    "download": "weights by name: Hugging Face, ModelScope, or a package of Python",
    "convert": "a model to and from the formats of transformers and llama.cpp, checked",
    "report": "the stages of a run -> report.html and report.md",
    "doctor": "what this machine can do, shown by running it",
}


@dataclasses.dataclass(frozen=True)
class Verb:
    """A settings class, the function that takes it, the field that a bare first argument fills, and other spellings."""

    settings: type
    run: Callable[[Any], Any]
    positional: str | None = None
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 a user's error, 130 interrupted, 143 asked to end."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _fail(str(error), 2)
    except Interrupted as stop:
        return _fail(str(stop), stop.code)
    except KeyboardInterrupt:
        code = _fail("interrupted; finished stages are kept, run the same command again to go on from there", 130)
        if "daft" in sys.modules:  # its threads abort a process that ends in their midst
            sys.stdout.flush()
            os._exit(code)
        return code
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + int(getattr(signal, "SIGPIPE", 13))
    except OSError as error:
        if (message := _disk_message(error)) is None:
            raise
        return _fail(message, 2)


def _fail(message: str, code: int) -> int:
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        console.print(f"fromzero: {printable(message)}", style="bold red", markup=False, soft_wrap=True)
    return code


def _disk_message(error: OSError) -> str | None:
    where = error.filename or "the output folder"
    if error.errno in DISK_FULL:
        return f"no space left while writing {where}; free some and run the same command again, it goes on from there"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}: {error.strerror}; name a folder that you may write to, or change its permissions"
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
        return f"{where}: {error.strerror}; check the path"
    return None


def _dispatch(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-V"]):
        print(__version__)
        return 0
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, rest = _find(arguments)
    verb: Verb = importlib.import_module(f"{__name__}.{name.replace(' ', '_').replace('-', '_')}").VERB
    if verb.positional and rest and not rest[0].startswith("-"):
        rest = [f"--{verb.positional}", *rest]
    rest = _listed([_spelled_out(argument, verb.aliases) for argument in rest], verb.settings)
    bare = f" The first argument may be given without --{verb.positional}." if verb.positional else ""
    settings: Any = from_arguments(verb.settings, rest, f"fromzero {name}", f"{VERBS[name]}.{bare}")
    verb.run(settings)
    return 0


def _listed(arguments: Sequence[str], settings: type) -> list[str]:
    """Lists may have their items one after the other, `--text a b`, as well as in brackets; a bare `--open` is true,
    a bare `--resume` auto, and a list that may be null is empty."""
    kinds = {f"--{name}": kind for name, kind in dotted(settings).items()}
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)
    for group in groups:
        kind = kinds.get(group[0])
        optional = typing.get_args(kind) if type(None) in typing.get_args(kind) else ()
        listed = any(typing.get_origin(part) is tuple for part in (kind, *optional))
        if listed and (group[1:] or optional) and not "".join(group[1:2]).startswith("["):
            group[1:] = [json.dumps(group[1:], ensure_ascii=False)]
        elif kind is bool and not group[1:]:
            group.append("true")
        elif not group[1:] and any("auto" in typing.get_args(part) for part in (kind, *typing.get_args(kind))):
            group.append("auto")
    return [argument for group in groups for argument in group]


def _spelled_out(argument: str, aliases: Mapping[str, str]) -> str:
    name, equals, value = argument.partition("=")
    return aliases.get(name, name) + equals + value


def _find(arguments: Sequence[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in VERBS:
            return name, list(arguments[words:])
    group = [verb for verb in VERBS if verb.split()[0] == arguments[0]]
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print("\n".join(f"  fromzero {verb:<25}{VERBS[verb]}" for verb in group))
        raise SystemExit(0)
    if group:
        raise UserError(f"unknown verb '{' '.join(arguments[:2])}'{nearest(' '.join(arguments[:2]), group)}")
    raise UserError(f"unknown verb '{arguments[0]}'{nearest(arguments[0], VERBS)}")


def _overview() -> str:
    lines = [
        "usage: fromzero VERB [--config FILE.yaml] [--setting VALUE ...]",
        "",
        "A folder of raw documents in, a language model you can talk to out.",
        "",
        *(f"  {verb:<25}{line}" for verb, line in VERBS.items()),
        "",
        "fromzero VERB --help          the settings of a verb, with units and defaults",
        "fromzero VERB --print_config  the same as YAML that --config reads",
    ]
    return "\n".join(lines)
