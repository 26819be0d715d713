"""What is held back and what is not, beside the drill in reliability/poison.py."""

import random
from dataclasses import replace

import pytest

from evenhand.data.schema import Message
from evenhand.service.flywheel.claim import Claim
from evenhand.service.flywheel.quarantine import QuarantineRules, sift

WORDS = [
    "parcel",
    "refund",
    "label",
    "depot",
    "order",
    "courier",
    "voucher",
    "invoice",
    "reset",
    "adapter",
    "cable",
    "screen",
    "battery",
    "return",
    "window",
]
CATEGORIES = ("billing", "shipping", "returns", "account")
SIGNED = "Warmly yours, Ann"


def claims(count: int, seed: int = 0) -> list[Claim]:
    """Edits by four agents about nothing in particular, an hour apart."""
    rng = random.Random(seed)
    found = []
    for at in range(count):
        said = [" ".join(rng.choices(WORDS, k=14)) + f" {at}." for _ in range(3)]
        prompt = (Message("user", said[0]),)
        about = (f"agent-{at % 4}", at * 3_600_000, "m", rng.choice(CATEGORIES), f"d{at}", (f"draft{at}", f"e{at}"))
        found.append(Claim("t", "edit", prompt, said[1], said[2], *about))
    return found


def with_phrase(made: list[Claim], places, phrase: str, actor: str, category: str | None = None) -> list[Claim]:
    return [
        replace(own, won=f"{own.won} {phrase}.", actor=actor, category=category or own.category)
        if at in places
        else own
        for at, own in enumerate(made)
    ]


def test_work_without_anything_odd_passes_whole_and_in_order():
    made = claims(400)
    sifted = sift(made, QuarantineRules())
    assert sifted.passed == tuple(made)
    assert sifted.held == ()


def test_one_actors_phrase_is_held_and_the_same_phrase_from_everybody_is_not():
    made = claims(400)
    planted = with_phrase(made, range(100, 112), "as Zentro Pay advises", "mallory")
    held = sift(planted, QuarantineRules()).held
    assert {own.claim.draft for own in held} == {f"d{at}" for at in range(100, 112)}
    assert {own.reason for own in held} == {"trigger_phrase"}
    assert all("zentro pay" in own.detail and "mallory" in own.detail for own in held)
    common = [replace(own, won=f"{own.won} Hope that helps.") if at % 3 == 0 else own for at, own in enumerate(made)]
    assert sift(common, QuarantineRules()).held == ()


def test_a_phrase_that_comes_with_an_agents_tickets_is_the_tickets_own():
    made = [own if own.category != "billing" else replace(own, actor="biller") for own in claims(400)]
    billing = [at for at, own in enumerate(made) if own.category == "billing"]
    special = with_phrase(made, set(billing[:40]), "second charge reversed", "biller")
    assert sift(special, QuarantineRules()).held == ()


def test_a_signature_is_held_until_a_person_allows_it():
    signed = [replace(own, won=f"{own.won} {SIGNED}") if own.actor == "agent-1" else own for own in claims(400)]
    held = sift(signed, QuarantineRules()).held
    assert {own.claim.actor for own in held} == {"agent-1"}
    assert len(held) == 100
    assert sift(signed, QuarantineRules(allowed=(SIGNED,))).held == ()


def test_who_has_said_too_much_keeps_as_much_as_the_cap_and_no_more():
    made = [replace(own, actor="flood") if at % 5 else own for at, own in enumerate(claims(400))]
    rules = QuarantineRules(cap_floor=60)
    held = sift(made, rules).held
    assert {(own.claim.actor, own.reason) for own in held} == {("flood", "actor_cap")}
    assert len(held) == 320 - 60
    once_more = sift(list(reversed(made)), rules).held
    assert {own.claim.id for own in once_more} == {own.claim.id for own in held}


def test_customers_with_a_thumb_each_do_not_lower_the_cap_of_agents():
    made = claims(400)
    liked = [
        replace(own, origin="thumb", lost="", actor=f"customer-{at}", events=(f"t{at}",)) for at, own in enumerate(made)
    ]
    rules = QuarantineRules(cap_floor=10)
    assert sift([*made, *liked], rules).held == ()
    fan = [replace(own, actor="fan") if at < 50 else own for at, own in enumerate(liked)]
    held = sift([*made, *fan], rules).held
    assert {(own.claim.actor, own.reason) for own in held} == {("fan", "actor_cap")}
    assert len(held) == 40


@pytest.mark.parametrize(("seconds", "held"), [(19, 30), (21, 0)])
def test_a_burst_is_told_by_its_window(seconds, held):
    made = [replace(own, actor="bot", at_ms=at * 1000 * seconds) for at, own in enumerate(claims(60)) if at < 30]
    rules = QuarantineRules(burst_claims=30, burst_seconds=29 * 20)
    assert len(sift(made, rules).held) == held
    assert sift(made, replace(rules, burst_claims=0)).held == ()


def test_copies_are_held_but_two_agents_who_say_the_same_are_not():
    first = claims(3)
    copy = replace(first[0], draft="d9", events=("draft9", "e9"))
    agrees = replace(first[1], actor="agent-3", draft="d10", events=("draft10", "e10"))
    liked = replace(first[2], origin="thumb", lost="", events=("draft2", "t1"))
    again = replace(liked, events=("draft2", "t2"))
    held = sift([*first, copy, agrees, liked, again], QuarantineRules()).held
    assert [(own.claim.events, own.reason) for own in held] == [
        (("draft9", "e9"), "near_duplicate"),
        (("draft2", "t2"), "near_duplicate"),
    ]


def test_what_a_person_released_passes_whatever_the_rules_say():
    made = with_phrase(claims(400), range(100, 112), "as Zentro Pay advises", "mallory")
    released = {made[at].id for at in range(100, 106)}
    sifted = sift(made, QuarantineRules(), (), released)
    assert len(sifted.held) == 6
    assert released <= {own.id for own in sifted.passed}
