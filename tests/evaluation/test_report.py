"""The report's JSON against the evaluations behind it, and its page in a real browser."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_report import aligned, example, replies, scored, traits

from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.difference import difference, difference_of_replies
from evenhand.evaluation.epochs import epochs_of
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.preference import evaluate_pairs
from evenhand.evaluation.report import DataFacts, Evaluated, examples, write_report
from evenhand.evaluation.table import flattened
from evenhand.evaluation.verdict import verdict_on_rewards

XSS = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags that were opened, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.words += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_report(place, example())
    return place


def test_json_holds_the_evaluations_and_the_paired_difference(folder):
    found = json.loads((folder / "report.json").read_text())
    before, after = scored(), aligned(scored())
    paired = difference(before, after, traits()) | difference_of_replies(replies(False), replies(True))
    assert found["before"] == evaluate_pairs(before, traits()).json() | {"generation": replies(False).json()}
    assert found["after"] == evaluate_pairs(after, traits()).json() | {"generation": replies(True).json()}
    assert found["difference"] == paired["pairwise_accuracy"].json()
    assert found["differences"] == {name: figure.json() for name, figure in paired.items()}
    assert found["data"]["refused"] == {"empty": 54, "tie": 62}
    assert found["data"]["rows_in"] == 3120
    assert found["recipe"]["objective"]["beta"] == 2.0
    assert found["verdict"]["word"] == "better"


def test_each_epoch_is_its_last_validation(folder):
    found, page = json.loads((folder / "report.json").read_text())["epochs"], (folder / "report.html").read_text()
    assert [(own["epoch"], own["step"]) for own in found] == [(0, 0), (1, 80), (2, 160), (3, 240)]
    first = Generation(replies(False).replies[:8], (None,) * 8)  # as many prompts as a validation answers
    assert found[0]["median_tokens"] == first.median_tokens.json()
    assert [own["median_tokens"]["value"] for own in found[1:]] == [98.0, 78.0, 58.0]
    assert f"step 160, loss {found[2]['loss']:.3f}" in page
    assert epochs_of([{"step": 1, "validation": {"loss": 1.0}}], (None, None)) == []  # a journal of an older version


def test_the_page_states_the_numbers_of_the_json(folder):
    found, page = json.loads((folder / "report.json").read_text()), Page((folder / "report.html").read_text())
    assert found["verdict"]["sentence"] in page.words.replace("\u00a0", " ")
    for side in ("before", "after"):
        for name in ("pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum"):
            figure = found[side][name]
            assert f"{figure['value'] * 100:.1f} %" in page.words
            assert f"{figure['low'] * 100:.1f} to {figure['high'] * 100:.1f}" in page.words
    for stated in (
        "paper gamma",
        found["data"]["hash"],
        "refused: tie",
        "3,004",
        "1 x H100 80GB",
        "builtin:smollm2-135m",
    ):
        assert stated in page.words


def test_the_page_is_one_file_without_script_or_outside_address(folder):
    source = (folder / "report.html").read_text()
    page = Page(source)
    assert not page.named("script")
    assert not page.named("img")
    assert all(link["href"] == "data:," for link in page.named("link"))
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+[^\"' <]*", source))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "url(" not in source
    assert "@import" not in source


def test_the_page_can_be_read_without_seeing_it(folder):
    page = Page((folder / "report.html").read_text())
    charts = page.named("svg")
    assert len(charts) == 9
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 20 for chart in charts)
    assert all(header["scope"] in ("row", "col") for header in page.named("th"))
    assert page.named("html") == [{"lang": "en"}]
    labels = {section["aria-labelledby"] for section in page.named("section")}
    assert labels <= {attributes.get("id") for _, attributes in page.tags}


def hostile():
    """A report in which every text from outside tries to become markup."""
    known = replace(traits(), category_B=(XSS,) * 300)
    spoken = []
    for after in (False, True):
        said = tuple(
            replace(reply, prompt=(Message("user", XSS + "\u202e"),), text=XSS + " ann@example.org")
            for reply in replies(after).replies
        )
        spoken.append(replace(replies(after), replies=said))
    return replace(
        example(),
        name=XSS,
        before=Evaluated.of(scored(), known, spoken[0]),
        after=Evaluated.of(aligned(scored()), known, spoken[1]),
        data=DataFacts(XSS, 1, 1, {XSS: 3}),
        recipe={XSS: XSS, "objective": {"name": XSS, "beta": 2.0, "margin": 0.5}},
        machine={XSS: XSS},
        traits=known,
    )


def test_text_from_outside_stays_text(tmp_path):
    source = write_report(tmp_path, hostile()).read_text()
    page = Page(source)
    assert not page.named("script")
    assert not page.named("img")
    assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert page.words.count(XSS) > 20
    assert "[U+202E]" in page.words
    assert "\u202e" not in source
    assert "ann@example.org" not in source
    assert "[e-mail]" in page.words


def test_examples_are_taken_by_place():
    shown = examples(replies(False), replies(True), redacted=True)
    assert [example.before.prompt for example in shown] == [
        replies(False).replies[i].prompt for i in (0, 16, 32, 48, 64)
    ]
    assert examples(None, replies(True), redacted=True) == []


def test_a_report_without_replies_and_journal_is_still_a_report(tmp_path):
    bare = example()
    bare = replace(
        bare, before=Evaluated.of(scored()), after=Evaluated.of(aligned(scored())), journal=(), traits=None, machine={}
    )
    page = Page(write_report(tmp_path, bare).read_text())
    assert "In its own words" not in page.words
    assert len(page.named("svg")) == 3
    assert json.loads((tmp_path / "report.json").read_text())["before"]["generation"] is None


def test_a_report_on_one_pair_says_that_nothing_is_shown(tmp_path):
    one = replace(example(), before=Evaluated.of(scored(1)), after=Evaluated.of(aligned(scored(1))), traits=None)
    write_report(tmp_path, one)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["verdict"]["word"] == "undecided"
    assert found["after"]["length_balanced_accuracy"]["value"] is None


def test_models_scored_on_other_pairs_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="not scored on the same pairs"):
        write_report(tmp_path / "r", replace(example(), after=Evaluated.of(scored(200))))
    assert not (tmp_path / "r").exists()


def test_replies_to_other_prompts_are_refused(tmp_path):
    other = Evaluated.of(aligned(scored()), traits(), replies(True, 40))
    with pytest.raises(DataError, match=r"same prompts \(80 and 40 replies\)"):
        write_report(tmp_path, replace(example(), after=other))


def test_difference_of_replies_is_after_minus_before():
    before, after = replies(False), replies(True)
    found = difference_of_replies(before, after)
    for name in ("ended", "repetition"):
        assert found[name].value == pytest.approx(getattr(after, name).value - getattr(before, name).value)
        assert found[name].low <= found[name].value <= found[name].high


def test_replies_of_which_no_reward_says_anything_are_in_no_mean_reward():
    def rewarded(rewards: list[float | None]) -> Generation:
        made = [replace(reply, reward=reward) for reply, reward in zip(replies(False, len(rewards)).replies, rewards)]
        return Generation(tuple(made), ("one", "one", *map(str, range(len(made) - 2))))

    before, after = rewarded([0.0, None, 1.0, 0.0]), rewarded([1.0, None, 1.0, None])
    assert (before.reward.value, before.reward.n) == (pytest.approx(1 / 3), 3)
    moved = difference_of_replies(before, after)["reward"]
    assert (moved.value, moved.n) == (0.5, 2)
    silent = rewarded([None] * 4)
    assert silent.reward.n == 0
    assert "reward" not in silent.json()
    said = verdict_on_rewards(silent.reward, silent.reward, difference_of_replies(silent, silent))
    assert said.sentence == "The reward of replies was not measured with an interval."


def test_every_setting_of_the_recipe_is_listed():
    assert flattened({"a": {"b": {"c": None}, "d": (1, 2)}, "e": {}}) == [
        ("a.b.c", "null"),
        ("a.d", "(1, 2)"),
        ("e", "{}"),
    ]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_scrolls_sideways_complains_or_calls_out(browser, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    for i, report in enumerate((example(), hostile())):
        page.goto(write_report(tmp_path / str(i), report).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        contrast = page.evaluate(_CONTRAST)
        assert min(contrast.values()) >= 4.5, contrast
    context.close()
    assert complaints == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


# Contrast of each text with the nearest painted background, as WCAG 2 computes it, by kind of text.
_CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => rgb(c).slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgb(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {}, texts = "p, h1, h2, h3, h4, th, td, span, dt, dd, li, caption, figcaption, text, .text";
  for (const e of document.querySelectorAll(texts)) {
    if (!e.textContent.trim()) continue;
    const style = getComputedStyle(e), ink = e.tagName === "text" ? style.fill : style.color;
    const [bright, dark] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const kind = e.tagName + "." + (e.className.baseVal ?? e.className);
    found[kind] = Math.min(found[kind] ?? 99, (bright + .05) / (dark + .05));
  }
  return found;
}"""
