"""Other people's test suites against the live server."""

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from fromzero.interop import load_model
from tests.serving.conftest import Live

WORDS = ("river", "mountain", "cloud", "forest")


def by_hand(live: Live, prompt: str, choices: list[str]) -> list[float]:
    """Log-probabilities of continuations, of the model in this process."""
    model, tokenizer = load_model(live.service.config.model).eval(), live.service.tokenizer
    scores = []
    for choice in choices:
        whole, begin = tokenizer.encode(prompt + choice), len(tokenizer.encode(prompt))
        with torch.inference_mode():
            log_p = model(torch.tensor([whole]))[0].log_softmax(-1)
        scores.append(sum(float(log_p[i - 1, whole[i]]) for i in range(begin, len(whole))))
    return scores


def test_lm_evaluation_harness(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    docs = [
        {"q": f"The {word} near the", "choices": [f" {w}" for w in WORDS], "label": i} for i, word in enumerate(WORDS)
    ]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "task.yaml").write_text(
        f"""
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/docs.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
    )
    asked = {"model": "tiny", "base_url": f"{live.url}/v1/completions", "tokenizer_backend": "huggingface"}
    asked |= {"tokenizer": str(live.service.config.model), "max_length": 1024, "num_concurrent": 1, "batch_size": 3}
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="local-completions", model_args=asked, tasks=["words"], task_manager=manager, bootstrap_iters=0
    )
    for doc, sample in zip(docs, found["samples"]["words"], strict=True):
        over_http = [float(response[0][0]) for response in sample["resps"]]
        assert over_http == pytest.approx(by_hand(live, doc["q"], doc["choices"]), abs=1e-3)


def test_what_the_schema_says_holds(live: Live) -> None:
    """Requests made from /openapi.json, right ones and wrong ones, are never answered by a fault of the server."""
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    checks = (
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.CHECKS.get_one("status_code_conformance"),
        schemathesis.checks.CHECKS.get_one("content_type_conformance"),
    )
    seen = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/metrics":
            continue

        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body["max_tokens"] = 1
                case.body["n"] = 1
                case.body["model"] = "tiny"
            response = case.call(timeout=30)
            case.validate_response(response, checks=checks)

        ask()
        seen += 1
    assert seen > 8
    assert live.get("/health").status_code == 200
