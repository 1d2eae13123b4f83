"""Constrained decoding: whatever the model would rather say, whole answers follow their rule."""

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, constrain
from fromzero.inference.constrain import Grammar, compile_rule
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Output, Request
from fromzero.inference.sampling import Sampler
from fromzero.model import ModelConfig, Transformer
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.unigram import BYTES, SPACE, Metaspace, UnigramTokenizer
from fromzero.tokenizer.word import CharacterTokenizer, WordTokenizer
from fromzero.tokenizer.wordpiece import WordPieceTokenizer

ROLES = {"bos_token": "<|endoftext|>"}
TOKENIZER = ByteTokenizer({"<|endoftext|>": 256, "<|im_end|>": 257}, roles=ROLES)
MODEL = ModelConfig(vocab_size=264, context=400, layers=1, width=16, heads=2)  # some ids more than the tokenizer has
FREE = SamplingConfig(temperature=1, top_p=1, max_tokens=300)
WORDS = [
    "true",
    "false",
    "null",
    "name",
    ", ",
    ": ",
    '{"',
    '": ',
    '", "',
    "}",
    "river",
    "ab",
    " a",
    "12",
    "\u4ece\u96f6",
]
PRINTED = [chr(i) for i in range(33, 127)]


def unigram(**options: Any) -> Tokenizer:
    """Pieces of SentencePiece's kind: a blank is part of the word that it stands before."""
    texts = dict.fromkeys([SPACE, *(word.replace(" ", SPACE) for word in WORDS), *PRINTED])
    pieces = [("<unk>", 0.0), *BYTES, *((text, -1.0) for text in texts)]
    specials = {"<unk>": 0, "</s>": len(pieces)}
    roles = {"unk_token": "<unk>", "eos_token": "</s>"}
    return UnigramTokenizer(pieces, "<unk>", specials, roles=roles, byte_fallback=True, **options)


def byte_pairs() -> Tokenizer:
    vocabulary, merges = {bytes([i]): i for i in range(256)}, list[tuple[int, int]]()
    for word in WORDS:
        made = word.encode()[:1]
        for byte in word.encode()[1:]:
            longer = made + bytes([byte])
            if longer not in vocabulary:
                merges.append((vocabulary[made], byte))
                vocabulary[longer] = len(vocabulary)
            made = longer
    return BPETokenizer(vocabulary, merges, special_tokens={"<|endoftext|>": len(vocabulary)}, roles=ROLES)


def sentencepiece_bpe() -> Tokenizer:
    texts = ["<unk>", "</s>", *(name for name, _ in BYTES), SPACE, *PRINTED]
    vocabulary = {text: i for i, text in enumerate(texts)}
    specials = {text: vocabulary[text] for text in ("<unk>", "</s>")}
    roles = {"unk_token": "<unk>", "eos_token": "</s>"}
    metaspace = Metaspace("first", split=False)
    options: dict[str, Any] = {"byte_fallback": True, "leading_space": True, "metaspace": metaspace}
    return SentencePieceBPETokenizer(vocabulary, [], "<unk>", specials, roles=roles, **options)


def wordpiece() -> Tokenizer:
    texts = ["[UNK]", "[SEP]", *PRINTED, *(f"##{text}" for text in PRINTED), "river", "##name"]
    ids = {text: i for i, text in enumerate(texts)}
    specials = {text: ids.pop(text) for text in ("[UNK]", "[SEP]")}
    return WordPieceTokenizer(ids, "[UNK]", specials, roles={"unk_token": "[UNK]", "eos_token": "[SEP]"})


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: TOKENIZER,
    "without an end": ByteTokenizer,
    "characters": lambda: CharacterTokenizer(
        {text: i for i, text in enumerate([*PRINTED, " ", "\u4ece"])}, unknown=None
    ),
    "words": lambda: WordTokenizer(
        {text: i for i, text in enumerate(dict.fromkeys([*WORDS, *PRINTED, " "]))}, unknown=None
    ),
    "byte pairs": byte_pairs,
    "unigram": lambda: unigram(metaspace=Metaspace(), leading_space=True),
    "unigram that marks no beginning": lambda: unigram(metaspace=Metaspace("never")),
    "SentencePiece's byte pairs": sentencepiece_bpe,
    "word pieces": wordpiece,
}


def walk(tokenizer: Tokenizer, rule: Grammar, seed: int, most: int = 400) -> str | None:
    """An answer of a model that has no idea; None if it did not come to an end."""
    noise = torch.Generator().manual_seed(seed)
    sampler = Sampler(replace(FREE, seed=seed), (), rule)
    ends = set(tokenizer.special_tokens.values())
    ids: list[int] = []
    for _ in range(most):
        token = sampler.choose(3 * torch.randn(tokenizer.vocab_size + 5, generator=noise))
        assert token not in ends or token != tokenizer.unknown_id
        if token not in ends:
            assert tokenizer.token_bytes(token)
            ids.append(token)
        sampler.accept(token)
        if token in ends or sampler.done:
            return tokenizer.decode(ids)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_follows(kind: str) -> None:
    tokenizer = KINDS[kind]()
    spaced = "(?s:.{0,3}river|[0-9]{2,4}:a*)" if kind != "word pieces" else r"(river|[0-9]{2,4} : a)"
    schema = {
        "properties": {"name": {"enum": ["a", 12, None]}, "on": {"type": "boolean"}},
        "additionalProperties": False,
    }
    schema |= {"type": "object", "required": ["name"]}
    choices = ["a.b", "river", "ab", "12 river" if kind != "word pieces" else "12"]
    whole = 0
    for seed in range(12):
        if (text := walk(tokenizer, compile_rule(tokenizer, regex=spaced), seed)) is not None:
            assert re.fullmatch(spaced, text), text
            whole += 1
        assert walk(tokenizer, compile_rule(tokenizer, choices=choices), seed) in choices
        text = walk(tokenizer, compile_rule(tokenizer, schema=schema), seed)
        assert text is not None
        jsonschema.validate(json.loads(text), schema)
    assert whole


@pytest.mark.parametrize("regex", [" a", "( |ab)*", "a? ?b"])
def test_a_blank_that_begins_a_rule_is_in_the_text(regex: str) -> None:
    """Tokenizers of SentencePiece's kind swallow one blank that begins an answer, unless it goes on from words."""
    tokenizer = KINDS["unigram"]()
    for seed in range(20):
        text = walk(tokenizer, compile_rule(tokenizer, regex=regex), seed)
        assert text is None or re.fullmatch(regex, text), text
    later = compile_rule(tokenizer, regex="river", goes_on=True)
    assert not later.allowed()[tokenizer.encode(" ")[0]]


def test_pieces_with_the_same_bytes_may_all_come() -> None:
    tokenizer = KINDS["unigram that marks no beginning"]()
    allowed = compile_rule(tokenizer, regex="[a]+x", goes_on=True).allowed().nonzero()[:, 0].tolist()
    assert {tokenizer.token_bytes(i) for i in allowed} == {b"a"}
    assert len(allowed) == 2  # the letter, and the byte


# --- in the engine ----------------------------------------------------------------------------------------------------


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def answer(
    engine: Engine, asked: dict[str, tuple[SamplingConfig, Grammar | None]]
) -> dict[tuple[str, int], list[Output]]:
    """All answers, from requests that are made together."""
    for name, (sampling, rule) in asked.items():
        engine.submit(Request(name, tuple(name.encode()), sampling), rule)
    found: dict[tuple[str, int], list[Output]] = {}
    while engine.busy:
        for output in engine.step():
            found.setdefault((output.request, output.index), []).append(output)
    return found


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(MODEL, seed=1).eval()


LEAVES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -5, "maximum": 120},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[a-c]{2,3}$"},
        {"type": "string", "format": "date"},
        {"enum": ["red", "\u7eff", 3, None]},
        {"const": {"a": [1]}},
        {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    ]
)
NAMES = st.sampled_from(["id", "name", 'with "quotes"', "\u540d", "a/b", "$ref"])


def grown(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.dictionaries(NAMES, parts, min_size=1, max_size=3).flatmap(
        lambda properties: st.lists(st.sampled_from(list(properties)), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        )
    )
    arrays = parts.map(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 2})
    either = st.lists(parts, min_size=1, max_size=2).map(lambda options: {"anyOf": options})
    return objects | arrays | either


@given(st.lists(st.recursive(LEAVES, grown, max_leaves=5), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_whole_answers_are_valid_under_any_schema(model: Transformer, schemas: list[dict[str, Any]]) -> None:
    engine = Engine(model, TOKENIZER, EngineConfig(cache_tokens=2000, page_tokens=4, running=4))
    asked = {f"ask {i}": (replace(FREE, seed=i), compile_rule(TOKENIZER, schema=s)) for i, s in enumerate(schemas)}
    found = answer(engine, dict(asked))
    for number, schema in enumerate(schemas):
        outputs = found[f"ask {number}", 0]
        assert outputs[-1].reason in ("stop", "length"), outputs[-1]
        if outputs[-1].reason == "stop":
            jsonschema.validate(json.loads(text_of(outputs)), schema, jsonschema.Draft202012Validator)
    assert engine.pool.free == engine.pool.count


def test_beside_others_n_times_and_with_little_room(model: Transformer) -> None:
    """Unconstrained neighbours answer as alone; answers that give way to others go on under their rule."""
    regex, choices = "([a-f][0-9]){20}", ["one", "two and more"]
    rules = {"regex": compile_rule(TOKENIZER, regex=regex), "choices": compile_rule(TOKENIZER, choices=choices)}
    asked: dict[str, tuple[SamplingConfig, Grammar | None]] = {
        name: (replace(FREE, seed=4, n=2, max_tokens=60), rule) for name, rule in rules.items()
    }
    plain = replace(FREE, seed=9, max_tokens=50, ignore_end=True)
    asked |= {"free": (plain, None), "also free": (replace(plain, temperature=0), None)}
    wide = Engine(model, TOKENIZER)
    tight = Engine(model, TOKENIZER, EngineConfig(cache_tokens=100, page_tokens=4, step_tokens=7, running=7))
    alone = {key: value for name in asked for key, value in answer(wide, {name: asked[name]}).items()}
    together = answer(tight, asked)
    assert tight.stats.preemptions
    for key, outputs in together.items():
        assert text_of(outputs) == text_of(alone[key]), key
    for index in range(2):
        assert re.fullmatch(regex, text_of(together["regex", index]))
        assert text_of(together["choices", index]) in choices
        assert together["choices", index][-1].reason == "stop"
    assert text_of(together["regex", 0]) != text_of(together["regex", 1])


def test_how_answers_end(model: Transformer) -> None:
    engine = Engine(model, TOKENIZER)
    digits = compile_rule(TOKENIZER, regex="[0-9]{9}")
    asked: dict[str, tuple[SamplingConfig, Grammar | None]] = {
        "cut": (replace(FREE, max_tokens=5), digits),
        "just enough": (replace(FREE, max_tokens=9), digits),
        "stop text": (replace(FREE, stop=("77",)), compile_rule(TOKENIZER, regex="[0-6]*77[0-9]+")),
        "too short": (replace(FREE, min_tokens=50, max_tokens=60), compile_rule(TOKENIZER, choices=["no"])),
        "greedy": (replace(FREE, temperature=0, max_tokens=20), compile_rule(TOKENIZER, regex="a*b{3}")),
        "stop id": (replace(FREE, stop_ids=(ord("}"),)), compile_rule(TOKENIZER, schema={"const": {}})),
    }
    found = {name: outputs for (name, _), outputs in answer(engine, asked).items()}
    assert (len(text_of(found["cut"])), found["cut"][-1].reason) == (5, "length")
    assert (len(text_of(found["just enough"])), found["just enough"][-1].reason) == (9, "stop")
    assert re.fullmatch("[0-6]*", text_of(found["stop text"])) or found["stop text"][-1].reason == "length"
    assert (text_of(found["too short"]), found["too short"][-1].reason) == ("no", "stop")
    assert found["greedy"][-1].reason in ("stop", "length")
    assert text_of(found["stop id"]).strip() == "{"
    with pytest.raises(UserError, match="leave out ignore_end"):
        engine.submit(Request("x", (1,), replace(FREE, ignore_end=True)), digits)
    with pytest.raises(UserError, match="logit_bias has the id 264"):
        engine.submit(Request("x", (1,), replace(FREE, logit_bias={264: 1.0})))


def test_a_bias_does_not_lead_out_of_a_rule(model: Transformer) -> None:
    pushed = replace(FREE, logit_bias={ord("x"): 100.0, 257: 100.0}, presence_penalty=2.0)
    found = answer(Engine(model, TOKENIZER), {"ask": (pushed, compile_rule(TOKENIZER, regex="[0-9]{4}x?"))})
    assert re.fullmatch("[0-9]{4}x?", text_of(found["ask", 0]))


def test_a_rule_that_the_vocabulary_cannot_spell_fails_alone(model: Transformer) -> None:
    tokenizer = CharacterTokenizer({text: i for i, text in enumerate("abc")}, unknown=None)
    engine = Engine(model, tokenizer)
    rules = {"can": compile_rule(tokenizer, regex="[abc]{5}"), "can't": compile_rule(tokenizer, regex="ab!")}
    for name, rule in rules.items():
        engine.submit(Request(name, (1,), FREE), rule)
    last = dict[str, Output]()
    while engine.busy:
        last |= {output.request: output for output in engine.step()}
    assert last["can"].reason == "stop"
    assert (last["can't"].reason, "no token of the vocabulary fits" in last["can't"].message) == ("error", True)


# --- rules ------------------------------------------------------------------------------------------------------------


def test_copies_go_their_own_ways_and_rules_are_compiled_once() -> None:
    first = compile_rule(TOKENIZER, regex="ab|ac")
    first.accept(ord("a"))
    second = first.copy()
    second.accept(ord("b"))
    assert (first.done, second.done) == (False, True)
    assert first.allowed().nonzero()[:, 0].tolist() == [ord("b"), ord("c")]
    assert second.allowed().nonzero()[:, 0].tolist() == [256, 257]
    hits = constrain._compile.cache_info().hits
    assert compile_rule(TOKENIZER, regex="ab|ac").allowed().nonzero()[:, 0].tolist() == [ord("a")]
    assert constrain._compile.cache_info().hits == hits + 1
    for number in range(80):
        compile_rule(TOKENIZER, regex=f"x{number}")
    assert constrain._compile.cache_info().currsize <= 64
    with pytest.raises(UserError, match="can't go on by its rule"):
        first.accept(ord("z"))


@pytest.mark.parametrize("space", ["\n" * 9, " " * 9, "\n" + " " * 40])
def test_json_has_few_blanks(space: str) -> None:
    rule = compile_rule(TOKENIZER, schema={"type": "object"})
    taken = 0
    while taken <= len(space) and rule.allowed()[(b"{" + space.encode())[taken]]:
        rule.accept((b"{" + space.encode())[taken])
        taken += 1
    assert 1 < taken <= len(space)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


BAD: list[tuple[dict[str, Any], str]] = [
    ({"schema": {"properties": {"a": {"items": {"type": "strin"}}}}}, "at /properties/a/items .*Invalid type: strin"),
    (
        {"schema": {"$defs": {"x": {"pattern": "(("}}, "properties": {"y": {"$ref": "#/$defs/x"}}}},
        "/properties/y .*unclosed",
    ),
    ({"schema": {"anyOf": [{"type": "null"}, {"not": {}}]}}, "at /anyOf/1 .*not"),
    ({"schema": {"$ref": "http://127.0.0.1:1/x"}}, "root .*not present"),
    ({"schema": {"$ref": "file:///etc/passwd"}}, "root .*not present"),
    ({"schema": {"enum": []}}, "root"),
    ({"schema": {"type": "integer", "minimum": 5, "maximum": 1}}, "root .*minimum"),
    ({"schema": {"x-guidance": {"lenient": True}, "type": "string", "format": "zzz"}}, "Unknown format"),
    ({"schema": {"minimum": math.nan}}, "not finite at /minimum"),
    ({"schema": {"enum": ["\ud800"]}}, "lone surrogate"),
    ({"schema": [1]}, "must be an object"),
    ({"schema": None}, "must be an object"),
    ({"schema": nested(5000)}, "64 levels"),
    ({"schema": {"enum": list(range(70_000))}}, "65536 parts"),
    ({"schema": {"const": "x" * 70_000}}, "70013 characters"),
    ({"schema": {"type": "integer", "multipleOf": 999_983}}, "at /multipleOf has too many digits"),
    ({"schema": {"type": "integer", "allOf": [{"multipleOf": 9973}, {"multipleOf": 0.0101}]}}, "/allOf/1/multipleOf"),
    ({"regex": "a("}, "regular expression .*unclosed group"),
    ({"regex": r"(a)\1"}, "backreferences"),
    ({"regex": "a(?=b)"}, "look-around"),
    ({"regex": "(" * 20_000 + ")" * 20_000}, "regular expression"),
    ({"regex": "a" * 70_000}, "70000 characters"),
    ({"regex": "\ud800"}, "lone surrogate"),
    ({"choices": []}, "at least one character"),
    ({"choices": ["a", ""]}, "at least one character"),
]


@pytest.mark.parametrize(("rule", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_rules_that_cannot_be_followed(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        compile_rule(TOKENIZER, **rule)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "rule",
    [
        {"regex": "x{1000000}"},
        {"regex": "((a{1,100}){1,100}){1,100}"},
        {"regex": "(a*)*b|(a|aa)+"},
        {"regex": "(.*a.{500}){1,50}"},
        {"regex": "(.*[a-m]){200}.{200}[xyz]"},
        {"schema": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}},
        {"schema": {"type": "string", "minLength": 10**9}},
        {"schema": {"$ref": "#"}},
        {"schema": nested(60)},
        {"schema": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"}},
        {"schema": {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(8)]} for i in range(12)]}},
    ],
    ids=str,
)
def test_rules_that_could_grow_without_end_are_bounded(rule: dict[str, Any]) -> None:
    """They are refused, or their answers go on for a while, or end with an error; nothing takes long or raises more."""
    with contextlib.suppress(UserError):
        walk(TOKENIZER, compile_rule(TOKENIZER, **rule), seed=0, most=200)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "properties",
                        "items",
                        "anyOf",
                        "allOf",
                        "$ref",
                        "enum",
                        "const",
                        "pattern",
                        "required",
                        "minimum",
                        "maxItems",
                        "format",
                        "$defs",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_schema_breaks_anything(schema: Any) -> None:
    with contextlib.suppress(UserError):
        compile_rule(TOKENIZER, schema=schema).allowed()


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_no_regular_expression_breaks_anything(regex: str) -> None:
    with contextlib.suppress(UserError):
        compile_rule(TOKENIZER, regex=regex).allowed()


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_any_texts_can_be_choices(choices: list[str], seed: int) -> None:
    if any("\ud800" <= character <= "\udfff" for text in choices for character in text):
        return
    assert walk(TOKENIZER, compile_rule(TOKENIZER, choices=choices), seed) in choices


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"pip install 'fromzero\[serve\]'"):
        compile_rule(TOKENIZER, regex="never compiled before")
