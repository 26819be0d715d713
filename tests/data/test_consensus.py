"""Agreement and consensus equal independent implementations: crowd-kit, statsmodels and counting by hand."""

import json
import random
import warnings

import pandas as pd
import pytest
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from evenhand.data.agreement import agreement, annotator_agreements, shared_ratings
from evenhand.data.bench import CurationRules
from evenhand.data.consensus import consensus, likely_labels
from evenhand.data.curate import curate
from evenhand.data.items import ballot_of, identities
from evenhand.data.read import read_judgments

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from crowdkit.aggregation import DawidSkene
    from crowdkit.metrics.data import alpha_krippendorff


def crowd(seed, items, reliable, unreliable, each=3):
    """Ratings by annotators of whom some are right nine times in ten and some hardly ever; and the truth."""
    random_ = random.Random(seed)
    names = [f"r{at}" for at in range(reliable)] + [f"u{at}" for at in range(unreliable)]
    truth = {f"{at}".encode(): random_.choice((0, 1, 1, 2)) for at in range(items)}
    return truth, {
        item: {
            name: right if random_.random() < (0.9 if name[0] == "r" else 0.4) else random_.choice((0, 1, 2))
            for name in random_.sample(names, each)
        }
        for item, right in truth.items()
    }


def frame(ratings):
    rows = [(item.hex(), name, label) for item, labels in ratings.items() for name, label in labels.items()]
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


@pytest.mark.parametrize("seed", range(3))
def test_alpha_equals_crowd_kit(seed):
    _, ratings = crowd(seed, 120, 4, 2)
    want = alpha_krippendorff(frame(ratings))
    assert agreement(ratings).krippendorff_alpha.value == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_kappas_equal_statsmodels(seed):
    _, ratings = crowd(seed, 150, 4, 1)
    table = [[list(labels.values()).count(label) for label in range(3)] for labels in ratings.values()]
    assert agreement(ratings).fleiss_kappa.value == pytest.approx(fleiss_kappa(table), abs=1e-9)
    for own in annotator_agreements(ratings):
        for other, figure in own.with_others.items():
            both = [labels for labels in ratings.values() if own.name in labels and other in labels]
            joint = [[sum(la[own.name] == i and la[other] == j for la in both) for j in range(3)] for i in range(3)]
            want = cohens_kappa(joint, return_results=False) if len({*map(tuple, joint)}) > 1 else None
            assert figure.n == len(both)
            if figure.value is not None and want is not None:
                assert figure.value == pytest.approx(want, abs=1e-9)


def test_dawid_skene_equals_crowd_kit():
    _, ratings = crowd(0, 120, 5, 2, each=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit calls pandas in a way that pandas is about to drop
        want = DawidSkene(n_iter=300, tol=0.0).fit(frame(ratings)).probas_
    found = likely_labels(ratings)
    for item, shares in found.items():
        for label in range(3):
            assert shares[label] == pytest.approx(want.loc[item.hex()].get(label, 0.0), abs=1e-4)


def test_reliable_annotators_outweigh_a_majority_of_others():
    truth, ratings = crowd(7, 600, 3, 4, each=5)
    found = consensus(ratings)
    likeliest = {item: shares.index(max(shares)) for item, shares in found.likely.items()}
    counted = {item: max(range(3), key=list(labels.values()).count) for item, labels in ratings.items()}
    right = sum(likeliest[item] == truth[item] for item in truth)
    assert right > sum(counted[item] == truth[item] for item in truth)
    assert min(found.accuracy[f"r{at}"].value for at in range(3)) > max(
        found.accuracy[f"u{at}"].value for at in range(4)
    )
    wrong = [label != truth[item] for item, labels in ratings.items() for label in labels.values()]
    assert found.noise.value == pytest.approx(sum(wrong) / len(wrong), abs=0.05)


def test_nothing_shared_has_no_consensus():
    assert consensus({}).noise.value is None


def test_annotators_stand_in_order_of_what_they_share():
    ratings = {bytes([at]): {"ann": 0, "bob": at % 2} | ({"cyd": 0} if at < 3 else {}) for at in range(10)}
    found = annotator_agreements(ratings)
    assert [(own.name, own.items) for own in found] == [("ann", 10), ("bob", 10), ("cyd", 3)]
    assert found[2].percent.n == 3


def ratings_of(path):
    reading = read_judgments(path)
    return shared_ratings([ballot_of(own) for own in reading.judgments], identities(reading.judgments))


@pytest.mark.parametrize("name", ["pandalm_testset.json", "tulu_judgments.jsonl"])
def test_real_agreement_equals_crowd_kit(real_data, name):
    ratings = ratings_of(real_data / name)
    found = agreement(ratings).krippendorff_alpha
    assert found.value == pytest.approx(alpha_krippendorff(frame(ratings)), abs=1e-6)
    assert found.n == {"pandalm_testset.json": 837, "tulu_judgments.jsonl": 130}[name]


def test_the_ledger_has_each_verdicts_probability_of_being_wrong(tmp_path):
    _, ratings = crowd(0, 120, 5, 2, each=5)
    told = [
        {
            "prompt": f"question {item.decode()}?",
            "answer_a": "yes",
            "answer_b": "no",
            "verdict": ("a", "b", "tie")[label],
        }
        | {"annotator": name}
        for item, labels in ratings.items()
        for name, label in labels.items()
    ]
    alone = {"prompt": "asked once?", "answer_a": "yes", "answer_b": "no", "verdict": "a", "annotator": "r0"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*told, alone])))
    ledger = curate(read_judgments(path), CurationRules(near_duplicates=1.0)).ledger
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = DawidSkene(n_iter=300, tol=0.0).fit(frame(ratings)).probas_
    rows = frame(ratings)
    wanted = [1 - theirs.loc[task, label] for task, label in zip(rows["task"], rows["label"])]
    assert [own.noise for own in ledger[:-1]] == pytest.approx(wanted, abs=1e-3)
    assert ledger[-1].noise is None
