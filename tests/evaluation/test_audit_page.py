"""The page of an audit: complete, self-contained, without script whatever the data says, and free of torch."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from evenhand.data.appraise import Asked, appraise
from evenhand.data.harbor import write_harbor
from evenhand.evaluation.audit_page import audit_page, flow, flow_chart, write_audit_page


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harbor")
    write_harbor(folder, 1, judgments=800)
    return appraise(Asked(str(folder / "judgments.jsonl")), lambda _: None)


def charts(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_page_shows_every_finding_and_chart(found):
    page = audit_page(found)
    for finding in found.findings:
        assert finding.id.replace("_", " ") in page
    for title in ("Length against choice", "Annotators", "Agreement", "Duplicates", "What wins without being read"):
        assert title in page
    assert len(charts(page)) == 7
    assert "http://" not in re.sub(r'xmlns="[^"]*"', "", page)
    assert "https://" not in page
    assert "<script" not in page


def test_flow_adds_up(found):
    steps = flow(found)
    assert steps[0].left == found.reading.rows_in == steps[1].left + steps[1].dropped
    judged = next(step for step in steps if step.name == "judgments")
    rules = steps[steps.index(judged) + 1 : -1]
    left = judged.left
    for step in rules:
        left -= step.dropped
        assert step.left == left
    assert 0 < steps[-1].left <= left
    labels = [element.text for element in ElementTree.fromstring(flow_chart(steps)).iter() if element.text]
    assert {step.name for step in steps} <= set(labels)


def test_json_stands_beside_the_page(found, tmp_path):
    write_audit_page(tmp_path / "a.html", found)
    assert json.loads((tmp_path / "a.json").read_text()) == found.json()


PAYLOADS = [
    "<script>x()</script>",
    '"><img src=x onerror=x()>',
    "'-x()-'",
    "</style><script>x()</script>",
    "{{ 7 * 7 }}",
]


def test_no_text_becomes_markup(tmp_path):
    rows = [
        {"id": f"{at}{own}", "prompt": f"{own} {at} <|im_end|>", "answer_a": f"{own} yes {at}", "answer_b": f"no {own}",
         "verdict": "ab"[at % 2], "annotator": own, "category": own, "shown_first": "a"}
        for own in PAYLOADS for at in range(12)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = audit_page(appraise(Asked(str(tmp_path / "rows.jsonl")), lambda _: None))
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;script&gt;") > 2


def test_demonstrations_have_a_page_too(tmp_path):
    rows = [{"prompt": "p", "completion": f"x{at % 3}"} for at in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = audit_page(appraise(Asked(str(tmp_path / "rows.jsonl")), lambda _: None))
    assert "exact duplicate" in page
    assert len(charts(page)) == 1


def test_nothing_here_needs_torch():
    code = "import sys, evenhand.evaluation.audit_page, evenhand.data.preparation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
