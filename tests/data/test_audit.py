"""The audit finds what was planted and nothing else; its shape is the one that others rely on."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from evenhand.data.audit import audit
from evenhand.data.case import AuditOptions
from evenhand.data.checks import CHECKS
from evenhand.data.findings import ADVICE
from evenhand.data.patterns import CONTROL_TOKEN, TEMPLATE_START, personal, redact, refuses
from evenhand.data.schema import Judgment, Message, Reading, Refusal

WORDS = [
    f"{left}{right}" for left in ("ka", "lo", "mi", "ne", "su", "ta", "ro") for right in ("ban", "der", "fil", "gos")
]


def words(random_, count):
    return " ".join(random_.choice(WORDS) for _ in range(count))


def clean(seed, count, start=0):
    """Honest judgments of unrelated items by five annotators, half of them for the longer answer."""
    random_ = random.Random(seed)
    rows = []
    for row in range(start, start + count):
        prompt = (Message("user", words(random_, random_.randint(8, 40))),)
        answers = words(random_, random_.randint(5, 60)), words(random_, random_.randint(5, 60))
        verdict, first = random_.choice("ab"), random_.choice("ab")
        rows.append(Judgment(f"j{row}", row, f"{row}", prompt, *answers, verdict, f"ann-{row % 5}", first))
    return rows


def changed(own, row, **values):
    names = Judgment.__dataclass_fields__
    return Judgment(**({name: getattr(own, name) for name in names} | {"id": f"j{row}", "row": row} | values))


def reading(rows, refusals=()):
    total = len({own.row for own in rows}) + len(refusals)
    return Reading("memory", "judgments", total, tuple(rows), tuple(refusals))


def found(rows, options=None, refusals=()):
    return {finding.id: finding for finding in audit(reading(rows, refusals), options).findings}


def plant(seed, share=0.05, count=600):
    """Clean rows with each kind of flaw planted in its own rows; returns the rows and the truth."""
    random_ = random.Random(seed)
    rows = clean(seed, count)
    truth = {}
    sources = iter(random_.sample(rows, count // 2))
    makers = {
        "exact_duplicate": lambda own, row: changed(own, row),
        "near_duplicate": lambda own, row: changed(
            own, row, answer_a=own.answer_a.upper(), answer_b=f" {own.answer_b}  "
        ),
        "tie": lambda own, row: changed(own, row, prompt=(Message("user", words(random_, 20)),), verdict="tie"),
        "identical_answers": lambda own, row: changed(
            own, row, prompt=(Message("user", words(random_, 20)),), answer_b=own.answer_a.upper()
        ),
        "template_mixed": lambda own, row: changed(
            own,
            row,
            prompt=(Message("user", f"<|im_start|>user\n{words(random_, 20)}<|im_end|>\n<|im_start|>assistant\n"),),
        ),
        "control_token": lambda own, row: changed(
            own, row, prompt=(Message("user", words(random_, 20)),), answer_b=f"{own.answer_b} <|endoftext|> more"
        ),
        "pii": lambda own, row: changed(
            own, row, prompt=(Message("user", f"{words(random_, 20)} {words(random_, 1)}.{row}@mail.test"),)
        ),
        "refusal": lambda own, row: changed(
            own,
            row,
            prompt=(Message("user", words(random_, 20)),),
            verdict="a",
            answer_a=f"I'm sorry, but I can't help with {words(random_, 9)}.",
        ),
    }
    for name, make in makers.items():
        truth[name] = set()
        for _ in range(max(1, int(share * count))):
            row = len(rows)
            rows.append(make(next(sources), row))
            truth[name].add(row)
    truth["contradiction"] = set()
    for _ in range(max(1, int(share * count / 2))):
        own, row = next(sources), len(rows)
        rows.append(changed(own, row, verdict="b" if own.verdict == "a" else "a", annotator="ann-9"))
        truth["contradiction"] |= {own.row, row}
    random_.shuffle(rows)
    return rows, truth


def same_item_rows(rows, planted):
    """Rows that say exactly what a planted duplicate says: which of the two is called the copy is arbitrary."""
    key = {own.row: (own.prompt, own.answer_a.upper().strip(), own.answer_b.upper().strip()) for own in rows}
    return [{row for row, told in key.items() if told == key[copy]} for copy in planted]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_every_planted_flaw_is_found_and_nothing_else(seed, share):
    rows, truth = plant(seed, share)
    result = found(rows)
    # The planted contradictions are the only items with two annotators, so agreement on shared items is low indeed.
    # Thirty planted refusals that all win are also a phrase that decides the verdict; six are too few to tell.
    decides = {"trigger_phrase"} if share == 0.05 else set()
    assert set(result) == {*truth, "low_agreement", *decides}
    assert all(set(result[name].rows) == truth["refusal"] for name in decides)
    assert result["low_agreement"].count == 0
    for name, planted in truth.items():
        rows_found = set(result[name].rows)
        if name in {"exact_duplicate", "near_duplicate"}:
            assert len(rows_found) == len(planted)
            assert all(len(rows_found & both) == 1 for both in same_item_rows(rows, planted)), name
        else:
            assert rows_found == planted, name


def test_a_clean_set_has_no_findings():
    assert [set(found(clean(seed, 300))) for seed in range(4)] == [set()] * 4


def test_json_is_the_promised_shape():
    rows, _ = plant(0)
    refusals = (Refusal("x.jsonl", 9, 900, "empty", "`chosen` is empty", "{}"),)
    result = audit(reading(rows, refusals)).json()
    assert json.loads(json.dumps(result)) == result
    assert result["rows_in"] == result["rows_used"] + sum(result["refused"].values())
    assert result["refused"] == {"empty": 1}
    for finding in result["findings"]:
        assert set(finding) >= {"id", "severity", "count", "share", "examples", "effect", "remedy"}
        assert finding["severity"] in {"info", "warning", "severe"}
        assert finding["share"] == finding["count"] / result["rows_in"]
        assert len(finding["examples"]) == min(5, finding["count"])
        assert all(set(example) == {"row", "id", "text"} for example in finding["examples"])
    assert set(result["figures"]["longer_is_chosen"]) == {"value", "n", "low", "high"}
    assert [one["annotator"] for one in result["annotators"]] == [f"ann-{at}" for at in range(5)] + ["ann-9"]


def test_every_check_has_advice():
    assert [name for name, _ in CHECKS] == list(ADVICE)


def test_refused_rows_count_in_their_findings():
    refusals = [
        Refusal("x.jsonl", row + 1, row, reason, "", "{}")
        for row, reason in enumerate(["empty", "identical_answers", "identical_answers_normalised", "too_large"], 100)
    ]
    result = found(clean(0, 100), refusals=refusals)
    counts = {name: finding.count for name, finding in result.items()}
    assert counts == {"identical_answers": 2, "empty": 1, "too_long": 1}
    assert result["empty"].examples[0].row == 100


def test_length_figures_by_hand():
    rows = [
        changed(own, own.row, verdict="a" if len(own.answer_a) < len(own.answer_b) else "b") for own in clean(0, 90)
    ]
    rows = [own for own in rows if len(own.answer_a) != len(own.answer_b)]
    result = audit(reading(rows))
    assert result.figures["longer_is_chosen"].value == 0.0
    assert result.figures["length_only_accuracy"].value == 1.0
    assert result.figures["length_only_accuracy"].n == len(rows)
    assert [finding.id for finding in result.findings] == ["length_bias"]


def test_place_bias_of_a_whole_crowd():
    rows = [changed(own, own.row, shown_first=own.verdict) if own.row % 3 else own for own in clean(0, 300)]
    want = sum(own.shown_first == own.verdict for own in rows) / 300
    result = audit(reading(rows))
    assert result.figures["first_shown_is_chosen"].value == pytest.approx(want)
    assert [(own.id, own.severity, own.count) for own in result.findings] == [("position_bias", "warning", 0)]


def test_biased_annotators_are_named_with_all_their_rows():
    rows = clean(1, 1000)
    longer = {own.row: "a" if len(own.answer_a) > len(own.answer_b) else "b" for own in rows}
    rows = [changed(own, own.row, verdict=longer[own.row]) if own.annotator == "ann-2" else own for own in rows]
    rows = [changed(own, own.row, verdict=own.shown_first) if own.annotator == "ann-4" else own for own in rows]
    result = found(rows)
    assert set(result) == {"length_bias", "position_bias", "annotator_at_odds"}
    assert set(result["length_bias"].rows) == {own.row for own in rows if own.annotator == "ann-2"}
    assert set(result["position_bias"].rows) == {own.row for own in rows if own.annotator == "ann-4"}
    assert result["annotator_at_odds"].count == 400
    assert "ann-2 takes_longer" in result["annotator_at_odds"].detail


def test_low_agreement():
    random_ = random.Random(0)
    rows = []
    for own in clean(0, 200):
        for who in "xyz":
            rows.append(changed(own, len(rows), annotator=who, verdict=random_.choice("ab")))
    result = found(rows)
    assert set(result) == {"low_agreement", "contradiction"}
    assert result["low_agreement"].severity == "severe"
    votes = {}
    for own in rows:
        votes.setdefault(own.prompt, []).append(own.verdict)
    assert result["low_agreement"].count == sum(min(told.count("a"), told.count("b")) for told in votes.values())


def test_leak_between_given_splits():
    train, held = clean(0, 200), clean(1, 50)
    planted = [
        changed(held[at], 200 + at, prompt=(Message("user", held[at].prompt[0].content.upper()),)) for at in range(7)
    ]
    options = AuditOptions(held_out=reading(held))
    assert set(found(train, options)) == set()
    result = found(train + planted, options)
    assert set(result["leak"].rows) == set(range(200, 207))
    assert result["leak"].severity == "severe"


def test_too_long_in_tokens():
    rows = clean(0, 100)
    want = {
        own.row
        for own in rows
        if len(own.prompt[0].content.split()) + max(len(own.answer_a.split()), len(own.answer_b.split())) > 80
    }
    result = found(rows, AuditOptions(encode=str.split, max_tokens=80))
    assert 0 < len(want) < 100
    assert set(result["too_long"].rows) == want


def test_examples_hide_personal_data_and_control_characters():
    own = clean(0, 1)[0]
    text = "my card is 4111 1111 1111 1111, mail ann@example.org, key AKIAABCDEFGHIJKLMNOP \u202eesrever\x07"
    result = found([changed(own, 0, prompt=(Message("user", text),))])
    shown = result["pii"].examples[0].text
    assert shown == r"my card is [card], mail [e-mail], key [key] \u202eesrever\x07"
    assert result["pii"].severity == "severe"
    assert result["pii"].detail == "card in 1, e-mail in 1, key in 1"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("sk-proj-abcdefghijklmnopqrstuvwx", {"key"}),
        ("ghp_" + "a1" * 18, {"key"}),
        ("-----BEGIN RSA PRIVATE KEY-----", {"key"}),
        ("card 5500-0000-0000-0004", {"card"}),
        ("order 5500000000000005", set()),
        ("IBAN DE89 3704 0044 0532 0130 00", {"account"}),
        ("IBAN DE88 3704 0044 0532 0130 00", set()),
        ("call +44 20 7946 0958", {"phone"}),
        ("order 48213 on 2026-11-23 for $19.99", set()),
        ("0000 0000 0000 0000", set()),
        ("user at example dot org", set()),
    ],
)
def test_personal_data(text, kinds):
    assert personal(text) == kinds
    assert (redact(text) == text) == (not kinds)


@pytest.mark.parametrize(
    "text", ["<|im_start|>user\nHi", "[INST] Hi", "<start_of_turn>user", "### Human: Hi", "<s>[INST]"]
)
def test_template_starts(text):
    assert TEMPLATE_START.match(text)
    assert not TEMPLATE_START.match(f"Why does my model print {text}")


def test_ordinary_markup_is_no_control_token():
    assert not any(
        map(CONTROL_TOKEN.search, ["<b>bold</b>", "a <| b |> c", "List<String>", "x < y", "[install]", "<br/>"])
    )
    assert all(map(CONTROL_TOKEN.search, ["a</s>", "<|eot_id|>", "x [/INST] y", "<｜end▁of▁sentence｜>", "<eos>"]))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 400_000,
        "a@" * 200_000,
        "sk-" * 130_000,
        "eyJ-" * 100_000,
        "1 " * 200_000,
        "<|" * 200_000,
        "+1" * 200_000,
        "AB12 " * 80_000,
        "I am " * 80_000,
    ],
)
def test_no_text_makes_the_patterns_slow(text):
    start = time.perf_counter()
    personal(text)
    CONTROL_TOKEN.search(text)
    TEMPLATE_START.match(text)
    refuses(text)
    assert time.perf_counter() - start < 3


def data(name):
    folder = os.environ.get("EVENHAND_DATA")
    if folder is None or not (path := Path(folder) / name).is_file():
        pytest.skip(f"EVENHAND_DATA does not hold {name}")
    return path


def test_refusals_on_labelled_replies():
    rows = [json.loads(line) for line in data("xstest_replies.jsonl").read_text().splitlines()]
    plain = [row for row in rows if row["label"] != "3_partial_refusal"]
    right = sum(refuses(row["reply"]) == (row["label"] == "2_full_refusal") for row in plain)
    assert right / len(plain) > 0.9
    wrongly = sum(refuses(row["reply"]) for row in plain if row["label"] == "1_full_compliance")
    assert wrongly / sum(row["label"] == "1_full_compliance" for row in plain) < 0.05
