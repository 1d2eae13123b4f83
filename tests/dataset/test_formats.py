"""Every form that people keep records in becomes the same; what is malformed is told, what teaches nothing is named."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.dataset.formats import (
    Conversation,
    Judged,
    Labelled,
    Preference,
    Unusable,
    as_conversation,
    as_judged,
    as_labelled,
    as_preference,
)
from fromzero.errors import UserError


def say(*turns: str) -> list[dict[str, Any]]:
    """Messages from 'u:text', 'a:text', 's:text' and 't:text'."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


TOOL = {"type": "function", "function": {"name": "time"}}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("record", "messages", "learned"),
    [
        ({"messages": say("u:Hi", "a:Ho"), "source": 7}, say("u:Hi", "a:Ho"), "01"),
        ({"messages": [*say("u:Hi"), CALL, *say("t:1", "a:Ho")]}, [*say("u:Hi"), CALL, *say("t:1", "a:Ho")], "0101"),
        (
            {"messages": [*say("u:1"), {**say("a:2")[0], "weight": 0}, *say("u:3"), {**say("a:4")[0], "weight": 1}]},
            say("u:1", "a:2", "u:3", "a:4"),
            "0001",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                          {"role": "assistant", "content": "Ho", "tool_calls": None}]},
            say("u:Hi", "a:Ho"),
            "01",
        ),
        (
            {"system": "S", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
            say("s:S", "u:Hi", "a:Ho"),
            "001",
        ),
        (
            {"conversations": [{"from": s, "value": s} for s in ("system", "user", "assistant", "tool", "gpt")]},
            say("s:system", "u:user", "a:assistant", "t:tool", "a:gpt"),
            "00101",
        ),
        ({"conversations": say("u:Hi", "a:Ho")}, say("u:Hi", "a:Ho"), "01"),
        ({"prompt": "Hi", "completion": "Ho"}, say("u:Hi", "a:Ho"), "01"),
        (
            {"prompt": say("u:1", "a:2", "u:3"), "completion": say("a:4")},
            say("u:1", "a:2", "u:3", "a:4"),
            "0001",  # an answer in the prompt is not learned
        ),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, say("u:Add.\n\n1 2", "a:3"), "01"),
        ({"instruction": "Add.", "input": "", "output": "3"}, say("u:Add.", "a:3"), "01"),
        (
            {"instruction": "B", "input": None, "output": "b", "system": "S", "history": [["A", "a"]]},
            say("s:S", "u:A", "a:a", "u:B", "a:b"),
            "00001",
        ),
    ],
)  # fmt: skip
def test_conversations_of_all_forms(record: dict[str, Any], messages: Any, learned: str) -> None:
    found = as_conversation(record)
    assert found.messages == messages
    assert "".join(str(int(on)) for on in found.learned) == learned
    assert found.record.items() <= record.items()


@pytest.mark.parametrize("tools", [[TOOL], '[{"type": "function", "function": {"name": "time"}}]'])
def test_tools_are_a_list_or_json(tools: Any) -> None:
    assert as_conversation({"messages": say("u:Hi", "a:Ho"), "tools": tools}).tools == [TOOL]
    for none in ([], "", "[]", None):
        assert as_conversation({"messages": say("u:Hi", "a:Ho"), "tools": none}).tools is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (say("u:Hi"), "ends without an answer"),
        (say("s:S"), "ends without an answer"),
        (say("u:Hi", "a:Ho", "u:Hm"), "ends without an answer"),
        ([*say("u:Hi"), CALL, *say("t:1")], "ends without an answer"),
        (say("u:Hi", "u:Hm", "a:Ho"), "unbalanced roles"),
        (say("u:Hi", "a:Ho", "a:Ho"), "unbalanced roles"),
        (say("a:Ho"), "unbalanced roles"),
        (say("u:Hi", "t:1", "a:Ho"), "unbalanced roles"),
        (say("u:Hi", "a: \n"), "empty answer"),
        (say("u:Hi", "a:", "u:Hm", "a:Ho"), "empty answer"),
        ([*say("u:Hi"), {**say("a:Ho")[0], "weight": 0}], "no answer to learn from"),
    ],
)
def test_conversations_that_teach_nothing(messages: Any, reason: str) -> None:
    with pytest.raises(Unusable, match=f"^{reason}$"):
        as_conversation({"messages": messages})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, 'should have "messages", .* it has nothing'),
        ({"text": "Hi"}, 'should have "messages", "conversations", "prompt" and "completion", or .*; it has text'),
        ({"messages": "Hi"}, "list of messages"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "message 0 has the role 'bot'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 0 .* should be a text"),
        ({"messages": [*say("u:Hi"), {**say("a:Ho")[0], "weight": 0.5}]}, '"weight": 0.5; it should be 0 or 1'),
        ({"messages": say("u:Hi", "a:Ho"), "tools": "{"}, '"tools" .* not valid JSON'),
        ({"messages": say("u:Hi", "a:Ho"), "tools": [{"name": 1}]}, "tool 0 is not"),
        ({"conversations": ["Hi"]}, "message 0 is a str"),
        ({"conversations": [{"from": "humam", "value": "Hi"}]}, "\"from\": 'humam'; did you mean 'human'"),
        ({"conversations": [{"from": ["a"], "value": "Hi"}]}, '"from": '),
        ({"conversations": [{"from": "human"}]}, r"message 0 \(user\) has the content None"),
        ({"prompt": 3, "completion": "Ho"}, "3 stands where a text or a list of messages should"),
        ({"instruction": 3, "output": "Ho"}, "should be texts"),
        ({"instruction": "Hi", "output": 3}, "3 stands where"),
        ({"instruction": "Hi", "output": "Ho", "history": ["a"]}, '"history" should be'),
    ],
)
def test_malformed_conversations_are_told_by_their_keys(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_conversation(record)


PAIR = Preference(say("u:Hi"), say("a:Yes"), say("a:No"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Hi", "chosen": "Yes", "rejected": "No"}, PAIR),
        ({"prompt": say("u:Hi"), "chosen": say("a:Yes"), "rejected": say("a:No")}, PAIR),
        ({"chosen": say("u:Hi", "a:Yes"), "rejected": say("u:Hi", "a:No")}, PAIR),
        ({"prompt": "Hi", "chosen": say("u:Hi", "a:Yes"), "rejected": say("u:Hi", "a:No")}, PAIR),
        ({"instruction": "Hi", "input": "", "output": "Yes", "chosen": "Yes", "rejected": "No"}, PAIR),
        (
            {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4", "margin": "0.5"},
            Preference(say("u:Add.\n\n1 2"), say("a:3"), say("a:4"), 0.5),
        ),
        (
            {"chosen": say("s:S", "u:1", "a:2", "u:3", "a:4"), "rejected": say("s:S", "u:1", "a:2", "u:3", "a:5")},
            Preference(say("s:S", "u:1", "a:2", "u:3"), say("a:4"), say("a:5")),
        ),
        (
            {"chosen": say("u:1", "a:2"), "rejected": say("u:1", "a:0", "u:3", "a:4"), "margin": 2},
            Preference(say("u:1"), say("a:2"), say("a:0", "u:3", "a:4"), 2.0),
        ),
    ],
)
def test_preferences_of_all_forms(record: dict[str, Any], expected: Preference) -> None:
    assert as_preference(record) == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Hi", "chosen": "Yes", "rejected": "Yes"}, "equal sides"),
        ({"chosen": say("u:Hi", "a:Yes"), "rejected": say("u:Hi", "a:Yes")}, "equal sides"),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": " "}, "empty answer"),
        ({"prompt": "Hi", "chosen": [], "rejected": "No"}, "ends without an answer"),
        ({"prompt": say("u:Hi"), "chosen": say("u:Yes"), "rejected": say("a:No")}, "ends without an answer"),
        ({"prompt": say("u:Hi", "a:Ho"), "chosen": say("a:Yes"), "rejected": say("a:No")}, "unbalanced roles"),
        ({"chosen": say("u:1", "a:2"), "rejected": say("u:3", "a:4")}, "unbalanced roles"),
        ({"chosen": [], "rejected": say("u:3", "a:4")}, "unbalanced roles"),
    ],
)
def test_pairs_that_teach_nothing(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=f"^{reason}$"):
        as_preference(record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Hi", "chosen": "Yes"}, 'should have "chosen" and "rejected"'),
        ({"chosen": "Yes", "rejected": "No"}, '"prompt" beside texts'),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": 5}, "5 stands where"),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": "No", "margin": "big"}, "\"margin\" is 'big'"),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": "No", "margin": float("nan")}, '"margin" is nan'),
        ({"prompt": "Hi", "chosen": [3], "rejected": "No"}, "message 0 is a int"),
    ],
)
def test_malformed_pairs_are_told(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_preference(record)


@pytest.mark.parametrize("label", [True, "true", "True", 1, "1"])
def test_judged_answers(label: Any) -> None:
    record = {"prompt": "Hi", "completion": "Yes", "label": label}
    assert as_judged(record) == Judged(say("u:Hi"), say("a:Yes"), True)
    assert as_judged({**record, "label": not label if label is True else "0"}).good is False
    with pytest.raises(UserError, match="\"label\" is 'maybe'; it should be true or false"):
        as_judged({**record, "label": "maybe"})
    with pytest.raises(UserError, match='should have "prompt", "completion" and "label"'):
        as_judged({"prompt": "Hi", "completion": "Yes"})
    with pytest.raises(Unusable, match="empty answer"):
        as_judged({**record, "completion": ""})


def test_labelled_texts() -> None:
    assert as_labelled({"text": "Hi", "label": 3}) == Labelled("Hi", "3")
    assert as_labelled({"review": "Hi", "stars": " good "}, "review", "stars") == Labelled("Hi", "good")
    for record, message in (
        ({"txt": "Hi", "label": 1}, 'there is no "text" but txt, label; name the keys'),
        ({"text": 4, "label": 1}, '"text" is 4'),
        ({"text": "Hi", "label": 1.5}, '"label" is 1.5'),
        ({"text": "a\ud800", "label": 1}, r"surrogate U\+D800"),
    ):
        with pytest.raises(UserError, match=message):
            as_labelled(record)
    for record, reason in (({"text": " ", "label": 1}, "text"), ({"text": "a", "label": None}, "label")):
        with pytest.raises(Unusable, match=f"empty {reason}"):
            as_labelled(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "weight", "type", "text"]), inside, max_size=3
        )
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=2)})
    ),
    max_leaves=8,
)
KEYS = ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "system", "history"]
KEYS += ["tools", "chosen", "rejected", "margin", "label", "text"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_record_or_an_error_of_the_user(record: dict[str, Any]) -> None:
    for parse in (as_conversation, as_preference, as_judged, as_labelled):
        with contextlib.suppress(UserError, Unusable):
            found = parse(record)
            assert isinstance(found, Conversation | Preference | Judged | Labelled)
            if isinstance(found, Conversation):
                assert len(found.learned) == len(found.messages)
                assert any(found.learned)
