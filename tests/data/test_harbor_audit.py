"""The audit and the curation against the built-in judgments, whose flaws are known line by line."""

import json
import random
from collections import defaultdict

import pytest

from evenhand.data.audit import audit
from evenhand.data.bench import CurationRules
from evenhand.data.curate import curate
from evenhand.data.harbor.flaws import Flaws
from evenhand.data.harbor.generate import write_harbor
from evenhand.data.read import read_judgments
from evenhand.data.snapshot import content_hash
from evenhand.data.split import split

RATES = {
    "usual": Flaws(),
    "few": Flaws(exact_duplicates=0.01, near_duplicates=0.01, contradictions=0.02, ties=0.02, repeated=0.2),
    "many": Flaws(exact_duplicates=0.04, near_duplicates=0.05, contradictions=0.05, ties=0.1, repeated=0.35),
}
DRAWN = ("exact_duplicates", "near_duplicates", "contradictions", "ties", "repeated")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLANTED = ("tie", "contradiction", "exact_duplicate", "near_duplicate")


def planted_rows(made):
    rows = defaultdict(set)
    for truth in made.truth:
        rows[truth.planted].add(truth.row)
    return rows


def missed(made, result, spare=0):
    """Every planted class whose precision or recall is under 0.95, and whoever is named wrongly or not at all.

    `spare` hits are given: of 38 planted at a low drawn rate two are more than a twentieth.
    """
    found = {finding.id: set(finding.rows) for finding in result.findings}
    truth = planted_rows(made)
    wrong = [
        name
        for name in PLANTED
        if len(found.get(name, set()) & truth[name]) + spare < 0.95 * max(len(found.get(name, set())), len(truth[name]))
    ]
    named = {one.name: one.named_for for one in result.annotators if one.named_for}
    wanted = {made.length_lover: ("takes_longer",), made.first_lover: ("takes_first",)}
    return wrong if named == wanted else [*wrong, named]


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_classes_are_found_and_both_biased_annotators_are_named(tmp_path, seed, rates):
    made = write_harbor(tmp_path, seed, RATES[rates])
    result = audit(read_judgments(tmp_path / "judgments.jsonl"))
    assert result.rows_in == len(made.lines)
    assert missed(made, result) == []


@pytest.mark.parametrize("draw", range(2))
def test_they_are_found_at_drawn_rates_in_drawn_letters(tmp_path, draw):
    """Nothing rests on a phrase of the generator: every letter is another one, drawn anew."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, draw {draw}")
    random_ = random.Random(seed)
    low, high = RATES["few"], RATES["many"]
    rates = {name: random_.uniform(getattr(low, name), getattr(high, name)) for name in DRAWN}
    made = write_harbor(tmp_path, random_.randrange(1 << 30), Flaws(**rates))
    path = tmp_path / "judgments.jsonl"
    path.write_text(reworded(path.read_text(), random_.sample(LETTERS, 26)))
    assert missed(made, audit(read_judgments(path)), spare=1) == []


def reworded(text, letters):
    """The lines with other letters in what was asked and answered; those that are no JSON stay as they are."""
    table = str.maketrans(LETTERS + LETTERS.upper(), "".join(letters) + "".join(letters).upper())
    lines = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            texts = {name: row[name] for name in ("prompt", "answer_a", "answer_b") if isinstance(row.get(name), str)}
            line = json.dumps(row | {name: own.translate(table) for name, own in texts.items()})
        lines.append(line + "\n")
    return "".join(lines)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clean_judgments_stay_and_flaws_go(tmp_path, seed):
    made = write_harbor(tmp_path, seed)
    curation = curate(read_judgments(tmp_path / "judgments.jsonl"), CurationRules())
    truth = planted_rows(made)
    dropped = {row.row for row in curation.ledger if row.outcome == "dropped"}
    assert len(dropped & truth["clean"]) <= 0.02 * len(truth["clean"])
    assert truth["tie"] | truth["length_lover"] | truth["first_lover"] <= dropped
    assert {row.row for row in curation.ledger} | truth["malformed"] == set(range(len(made.lines)))


def test_families_are_the_generators_and_stay_on_one_side(tmp_path):
    made = write_harbor(tmp_path, 0)
    curation = curate(read_judgments(tmp_path / "judgments.jsonl"), CurationRules())
    found = split(curation.pairs, 0.1, 0)
    sides = [{made.truth[pair.row].family for pair in side} for side in (found.train, found.validation)]
    assert not sides[0] & sides[1]
    pairs = {(made.truth[pair.row].family, pair.family) for pair in curation.pairs}
    assert len({ours for _, ours in pairs}) == len(pairs)  # no family of ours joins two of the generator's


def test_shuffled_lines_give_the_same_content_hash(tmp_path):
    made = write_harbor(tmp_path, 3)
    lines = random.Random(1).sample(made.lines, len(made.lines))
    (tmp_path / "shuffled.jsonl").write_text("".join(f"{line}\n" for line in lines))
    hashes = []
    for name in ("judgments", "shuffled"):
        found = split(curate(read_judgments(tmp_path / f"{name}.jsonl"), CurationRules()).pairs, 0.1, 0)
        hashes.append(content_hash(found.train, found.validation))
    assert hashes[0] == hashes[1]
