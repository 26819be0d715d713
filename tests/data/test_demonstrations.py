"""Demonstrations are recognised, read and audited; judgments are never taken for them."""

import hashlib
import json

import pytest

from evenhand.data.appraise import Asked, appraise
from evenhand.data.demonstrations import demonstration_kind, stops_early
from evenhand.errors import DataError

LETTERS = str.maketrans("0123456789", "ghijklmnop")
LONG = "The order left our house on Monday and will reach you soon. " * 5


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def audited(path, **asked):
    return appraise(Asked(str(path), **asked), lambda _: None)


def turns(*contents):
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": turns("p", "x")}, "messages"),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "x"}]}, "conversations"),
        ({"prompt": "p", "completion": "x"}, "prompt_completion"),
        ({"prompt": turns("p"), "completion": [{"role": "assistant", "content": "x"}]}, "prompt_completion"),
        ({"instruction": "p", "input": "", "output": "x"}, "instruction_output"),
        ({"question": "p", "answer": "x"}, "question_answer"),
    ],
)
def test_forms(tmp_path, row, kind):
    path = written(tmp_path, [row])
    assert demonstration_kind(path).name == kind
    found = audited(path)
    assert (found.reading.rows_used, found.audit) == (1, None)
    assert found.reading.judgments[0].answer_a == "x"
    assert found.json()["what"] == "demonstrations"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "x", "rejected": "y"},
        {"messages": turns("p", "x"), "rejected_response": "y"},
        {"instruction": "p", "output": ["x", "y"]},
        {"text": "p"},
    ],
)
def test_what_is_none(tmp_path, row):
    assert demonstration_kind(written(tmp_path, [row])) is None


def test_findings(tmp_path):
    words = [hashlib.sha256(bytes([at])).hexdigest().translate(LETTERS) for at in range(40)]
    rows = [{"prompt": f"about {own[:20]} please", "completion": f"it is {own[20:]}"} for own in words]
    rows += [
        rows[3],
        {"prompt": "What of order 17?", "completion": "We looked, and it is on its way to you now, order 17."},
        {"prompt": "What of order 18?", "completion": "We looked, and it is on its way to you now, order 18."},
        {"prompt": "cut", "completion": LONG + "We will send it on to the"},
        {"prompt": "no", "completion": "I'm sorry, but I can't help with that."},
        {"prompt": "<|im_start|>user\nHi<|im_end|>", "completion": "Hello you"},
        {"prompt": "control", "completion": "It printed <|endoftext|> again."},
        {"prompt": "mail", "completion": "ann@example.org will know"},
        {"prompt": "junk", "completion": "la" * 60},
        {"prompt": "empty", "completion": " "},
    ]
    found = audited(written(tmp_path, rows), encode=str.split, max_tokens=50)
    told = {own.id: own.rows for own in found.findings}
    assert told == {
        "exact_duplicate": (40,),
        "near_duplicate": (42,),
        "cut_off": (43,),
        "refusal": (44,),
        "template_mixed": (45,),
        "control_token": (46,),
        "pii": (47,),
        "not_language": (48,),
        "too_long": (43,),
    }
    assert found.reading.refused == {"empty": 1}
    assert found.severe
    assert all(own["effect"] and own["remedy"] for own in found.json()["findings"])


@pytest.mark.parametrize(
    "held_out",
    [
        {"prompt": "How many crates does Ann load in 17 days?", "completion": "x"},
        {"prompt": "How many crates does Ann load in 17 days?", "chosen": "x", "rejected": "y"},
        {"question": "How many crates does Ann load in 17 days?"},
    ],
    ids=["demonstrations", "judgments", "prompts"],
)
def test_held_out_prompts_among_demonstrations_are_a_severe_leak(tmp_path, held_out):
    asked = ["Where is the harbor?", "How many crates does Ann load in 19 days?", "Who wrote the letter?"]
    data = written(tmp_path, [{"prompt": own, "completion": "We shall see."} for own in asked])
    held = tmp_path / "held_out.jsonl"
    held.write_text(json.dumps(held_out))
    found = audited(data, held_out=str(held))
    assert {own.id: own.rows for own in found.findings} == {"leak": (1,)}
    assert found.severe
    assert not audited(data).severe
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        audited(data, held_out=str(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize(
    ("reply", "early"),
    [
        (LONG, False),
        (LONG + "and then we", True),
        (LONG + "\n- open the box", False),
        (LONG + "\n#### 42", False),
        (LONG + "```", False),
        ("and then we", False),
        (LONG + "\n\n    return x", False),
    ],
)
def test_stops_early(reply, early):
    assert stops_early(reply) == early


def test_real_demonstrations(real_data):
    found = audited(real_data / "gsm8k_test.jsonl")
    assert (found.reading.rows_in, found.reading.refusals) == (1319, ())
    assert not found.severe


def test_neither_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no kind of preference row"):
        audited(written(tmp_path, [{"text": "x"}]))
