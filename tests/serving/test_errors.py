"""What is wrong is refused with the right code, in one sentence, and harms nothing."""

import threading
from typing import Any

import httpx
import openai
import pytest

from fromzero.inference.engine import EngineConfig
from tests.serving.conftest import Live, StartServer

ASK = [{"role": "user", "content": "Hello"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(**fields: Any) -> tuple[str, Any]:
    return CHAT, {"messages": ASK, "max_tokens": 2, **fields}


def text(**fields: Any) -> tuple[str, Any]:
    return TEXT, {"prompt": "The", "max_tokens": 2, **fields}


TOOL = {"type": "function", "function": {"name": "look"}}
WRONG = {
    "messages null": chat(messages=None),
    "messages text": chat(messages="hi"),
    "messages numbers": chat(messages=[123]),
    "message empty": chat(messages=[{}]),
    "no messages": chat(messages=[]),
    "role number": chat(messages=[{"role": 1, "content": "a"}]),
    "role unknown": chat(messages=[{"role": "king", "content": "a"}]),
    "content number": chat(messages=[{"role": "user", "content": 1}]),
    "content missing": chat(messages=[{"role": "user"}]),
    "content image": chat(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]
    ),
    "tool arguments": chat(
        messages=[*ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}]
    ),
    "format": chat(response_format={"type": "xml"}),
    "schema without schema": chat(response_format={"type": "json_schema"}),
    "schema of nonsense": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    ),
    "two rules": chat(response_format={"type": "json_object"}, structured_outputs={"regex": "a"}),
    "bad regex": chat(structured_outputs={"regex": "("}),
    "unknown field": chat(temperatur=1),
    "unknown option": chat(stream=True, stream_options={"usage": True}),
    "temperature": chat(temperature=-1),
    "temperature text": chat(temperature="hot"),
    "top_p": chat(top_p=2.0),
    "n": chat(n=0),
    "many n": chat(n=1000),
    "max_tokens": chat(max_tokens=0),
    "max_tokens negative": chat(max_tokens=-5),
    "logprobs": chat(logprobs=True, top_logprobs=21),
    "top alone": chat(top_logprobs=2),
    "stops": chat(stop=["a"] * 17),
    "empty stop": chat(stop=""),
    "long stop": chat(stop="a" * 1000),
    "bias word": chat(logit_bias={"hello": 1}),
    "bias size": chat(logit_bias={"1": 1000}),
    "bias id": chat(logit_bias={"100000": 1}),
    "stop id": chat(stop_token_ids=[-1]),
    "seed": chat(seed=-1),
    "huge number": chat(seed=10**40),
    "min_tokens": chat(min_tokens=5),
    "priority": chat(priority=-1),
    "choice without tools": chat(tool_choice="required"),
    "choice of no tool": chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "walk"}}),
    "tool name": chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
    "template variable": chat(chat_template_kwargs={"messages": []}),
    "too long": chat(messages=[{"role": "user", "content": "word " * 2000}]),
    "empty prompt": text(prompt=""),
    "no prompt": text(prompt=[]),
    "empty among prompts": text(prompt=["a", ""]),
    "mixed prompt": text(prompt=["a", 1]),
    "id outside": text(prompt=[5, 100_000]),
    "negative id": text(prompt=[-1]),
    "prompt missing": (TEXT, {"max_tokens": 2}),
    "prompt too long": text(prompt="word " * 2000),
    "many prompts": text(prompt=["a"] * 65),
    "suffix": text(suffix="end"),
    "best_of": text(n=3, best_of=2),
    "best_of in a stream": text(best_of=2, stream=True),
    "no tokens": text(max_tokens=0),
    "many logprobs": text(logprobs=50),
    "list body": (TEXT, [1, 2]),
    "text body": (TEXT, "hello"),
    "embedding empty": ("/v1/embeddings", {"input": ""}),
    "embedding long": ("/v1/embeddings", {"input": "word " * 2000}),
    "embedding id": ("/v1/embeddings", {"input": [100_000]}),
    "embedding format": ("/v1/embeddings", {"input": "a", "encoding_format": "xml"}),
    "tokenize both": ("/tokenize", {"prompt": "a", "messages": ASK}),
    "detokenize outside": ("/detokenize", {"tokens": [100_000]}),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_requests(live: Live, case: str) -> None:
    path, body = WRONG[case]
    answer = live.post(path, body)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["code"] == 400
    assert error["type"] == "invalid_request_error"
    assert 5 < len(error["message"]) < 600
    assert "\n" not in error["message"]
    assert live.idle()


def test_a_wrong_field_is_told_its_neighbour(live: Live) -> None:
    error = live.post(CHAT, {"messages": ASK, "max_tokns": 5}).json()["error"]
    assert error == {
        "message": "unknown field 'max_tokns'; did you mean 'max_tokens'?",
        "type": "invalid_request_error",
        "param": "max_tokns",
        "code": 400,
    }


RAW = {
    "no JSON": b"{",
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "infinite": b'{"prompt": "a", "temperature": 1e999}',
    "twice": b'{"prompt": "a", "prompt": "b"}',
    "deep": b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "no UTF-8": b'{"prompt": "\xff"}',
    "zero byte in JSON": b'{"prompt": "a\x00"}',
    "nothing": b"",
    "surrogate": rb'{"prompt": "\ud800"}',
    "long digits": b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("case", RAW)
def test_bodies_that_are_no_json(live: Live, case: str) -> None:
    answer = httpx.post(live.url + TEXT, content=RAW[case], headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_codes_of_other_refusals(live: Live) -> None:
    assert live.get("/nothing").status_code == 404
    assert live.get("/v1/responses").status_code == 404
    assert live.get(TEXT).status_code == 405
    assert live.get("/page/../../../../etc/passwd").status_code == 404
    assert live.get("/page/%2e%2e/__init__.py").status_code == 404
    assert httpx.post(live.url + TEXT, content=b"a=b", headers={"content-type": "text/plain"}).status_code == 415
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        live.client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError):
        live.client.completions.create(model="tiny", prompt="")
    assert live.post("/classify", {"input": "a"}).status_code == 422
    for path in ("/nothing", TEXT):
        assert set(live.get(path).json()["error"]) == {"message", "type", "param", "code"}


def test_keys(start_server: StartServer) -> None:
    live = start_server(api_key="sesame")
    assert live.client.models.list().data
    assert live.get("/v1/models", headers={"x-api-key": "sesame"}).status_code == 200
    for path in ("/v1/models", "/metrics", "/version", "/tokenizer_info", "/openapi.json", "/nothing"):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic sesame"},
            {"authorization": "Bearer"},
        ):
            answer = live.get(path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["type"] == "authentication_error"
    assert live.get("/health").status_code == 200
    assert live.get("/").status_code == 200


def test_before_the_model_is_there(start_server: StartServer) -> None:
    live = start_server(load=False)
    answer = live.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"] == {
        "message": "loading the model",
        "type": "unavailable_error",
        "param": None,
        "code": 503,
    }
    assert live.post(*text()).status_code == 503
    assert live.get("/metrics").status_code == 200
    live.service.load()
    assert live.get("/health").json() == {"status": "ok"}


def test_a_full_queue(start_server: StartServer) -> None:
    live = start_server(engine=EngineConfig(queued=2, running=1))
    body = {"prompt": "The", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", live.url + TEXT, json=body, timeout=60) as first:
        lines = first.iter_lines()
        next(lines)
        waiting = httpx.Client(timeout=60).stream("POST", live.url + TEXT, json=body | {"n": 2})
        threading.Thread(target=waiting.__enter__, daemon=True).start()
        live.wait(lambda: live.engine.stats.waiting == 2)
        refused = live.post(TEXT, body | {"stream": False})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            live.client.completions.create(model="tiny", prompt="a")
        assert live.get("/health").status_code == 200
    live.wait(live.idle)


def test_a_fault_of_the_engine(start_server: StartServer) -> None:
    live = start_server()

    def fail(*given: object) -> None:
        raise RuntimeError("out of luck")

    body = {"prompt": "The", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", live.url + TEXT, json=body, timeout=60) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        live.engine.runner.run = fail  # type: ignore[method-assign,assignment]
        *_, error, end = lines
    assert '"error"' in error
    assert '"code":500' in error
    assert end == "data: [DONE]"
    assert live.get("/health").status_code == 503
    assert live.post(TEXT, body | {"stream": False}).status_code == 503
