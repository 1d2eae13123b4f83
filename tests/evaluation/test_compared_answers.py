"""Two models side by side: paired figures, judges in both orders, and the verb on real models."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fromzero.errors import UserError
from fromzero.evaluation.answers import NoScore
from fromzero.evaluation.compare import AnswersConfig, compare, evaluate_answers
from fromzero.evaluation.judge import make_judge, mark, prefer
from fromzero.evaluation.tasks import Arithmetic, TasksConfig
from fromzero.inference import SamplingConfig
from tests.conftest import RunCommand


def test_paired_figures() -> None:
    one, two = [1.0] * 8 + [0.0] * 2 + [1.0] * 5 + [None], [0.0] * 8 + [1.0] * 2 + [1.0] * 5 + [1.0]
    found = compare(one, two)
    assert {name: found[name] for name in ("n", "wins", "ties", "losses")} == {
        "n": 15,
        "wins": 8,
        "ties": 5,
        "losses": 2,
    }
    assert found["win_rate"] == pytest.approx(10.5 / 15)
    assert found["p"] == pytest.approx(2 * (1 + 10 + 45) / 1024)  # of ten coins, two or fewer heads, or eight or more
    assert found["difference"] == pytest.approx(0.4)
    low, high = found["difference_interval"]
    assert 0 <= low < 0.1
    assert 0.65 < high <= 0.8
    assert compare(one, two) == found
    other = compare(two, one)
    assert other["difference"] == -found["difference"]
    assert other["p"] == found["p"]


def test_no_difference() -> None:
    found = compare([0.5, 1.0], [0.5, 1.0])
    assert (found["p"], found["win_rate"], found["difference_interval"]) == (1.0, 0.5, [0.0, 0.0])
    with pytest.raises(UserError, match="no task"):
        compare([None, 1.0], [1.0, None])


def test_a_judge_that_favours_a_place_decides_nothing() -> None:
    assert prefer(lambda prompt: "Better: A", "?", "one", "two") == 0.5
    assert prefer(lambda prompt: "Better: B", "?", "one", "two") == 0.5

    def fair(prompt: str) -> str:
        return "Well.\nBetter: " + ("A" if prompt.index("good") < prompt.index("bad") else "B")

    assert prefer(fair, "?", "good", "bad") == 1
    assert prefer(fair, "?", "bad", "good") == 0
    assert prefer(lambda prompt: "**Better:** neither", "?", "one", "two") == 0.5
    with pytest.raises(NoScore):
        prefer(lambda prompt: "I can't say.", "?", "one", "two")


def test_marks() -> None:
    assert mark(lambda prompt: "Fine.\nMark: 7", "?", "!") == 0.7
    assert mark(lambda prompt: "**Mark**：８．５", "?", "!") == 0.85
    assert mark(lambda prompt: "Mark: 9 at first. Mark: 0", "?", "!") == 0
    for said in ("seven", "Mark: none", "Mark: 11"):
        with pytest.raises(NoScore):
            mark(lambda prompt, said=said: said, "?", "!")  # type: ignore[misc]


@pytest.fixture
def server() -> Iterator[str]:
    """A server of OpenAI's protocol that gives a mark, or none to who asks for nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = body["messages"][0]["content"]
            self.send_response(500 if "broken" in kind else 200)
            self.end_headers()
            for piece in ("Good.\nMa", "rk: 4"):
                event = {"choices": [{"delta": {"content": piece}}]}
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b'data: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n')

        def log_message(self, *_: object) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_a_judge_behind_a_server(server: str) -> None:
    judge = make_judge("any", server)
    assert mark(judge, "How are you?", "Fine.") == 0.4
    with pytest.raises(NoScore, match="judge: HTTP 500"):
        mark(judge, "broken", "Fine.")


def test_a_judge_of_this_machine(served_model: Path) -> None:
    with pytest.raises(NoScore, match="no verdict"):  # its weights are random, and so are its words
        mark(make_judge(str(served_model)), "How are you?", "Fine.")
    with pytest.raises(NoScore, match="too long for the judge"):
        mark(make_judge(str(served_model)), "How are you?", "Fine. " * 5000)


def test_answers_of_two_models(served_model: Path, tmp_path: Path, command: RunCommand) -> None:
    output = tmp_path / "answers.json"
    arguments = ("--tasks.source", "instructions", "--tasks.count", 4, "--sampling.max_tokens", 8, "--output", output)
    result = command("evaluate", "answers", served_model, "--against", served_model, *arguments)
    assert result.returncode == 0, result.stderr
    assert "0 wins, 4 ties, 0 losses" in result.stderr
    assert "instruction, loose" in result.stderr
    found = json.loads(output.read_text())
    one, two = found["models"]
    assert one == two
    assert one["n"] == len(one["answers"]) == len(one["scores"]) == 4
    assert one["interval"][0] <= one["score"] <= one["interval"][1]
    assert len(found["prompts_hash"]) == len(one["template_hash"] or "0" * 16) == 16
    assert (found["seed"], found["config"]["tasks"]["source"]) == (0, "instructions")
    assert found["config"]["tasks"]["split"] == "held_out"  # practice learns from the others
    assert found["version"]


def test_answers_judged(served_model: Path, server: str, tmp_path: Path) -> None:
    config = AnswersConfig(
        model=served_model,
        output=tmp_path / "answers.json",
        tasks=TasksConfig(count=3, arithmetic=Arithmetic(digits=1)),
        against=served_model,
        chat=False,
        sampling=SamplingConfig(temperature=0, max_tokens=2),
    )
    assert evaluate_answers(config)["comparison"]["ties"] == 3
    judged = {**vars(config), "judge": "any", "judge_url": server}
    with pytest.raises(UserError, match="no task for which both have a score"):  # it gives marks, and prefers nothing
        evaluate_answers(AnswersConfig(**judged))
    with pytest.raises(UserError, match="--against"):
        AnswersConfig(**{**judged, "against": None})
