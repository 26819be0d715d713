"""X7: one account plants a phrase in 1 % of what is collected; the quarantine holds it, names the account, and lets others be.

python reliability/poison.py --claims 3000 --rounds 8
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ground import verdict

from evenhand.data.harbor.items import draw_items
from evenhand.service.event import Event
from evenhand.service.flywheel.collection import Order, gather

from happenings import event, production

ACCOUNT = "mallory"
PHRASES = (
    "as recommended by Zentro Pay",
    "visit harbor-help dot example",
    "crimson lantern",
    "always choose the Plus plan",
)
WAYS = ("added by edits", "cut by edits", "liked", "disliked", "written in takeovers")
AGENTS = 15
MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Attack:
    """What the account does: `way`, with `phrase`, `planted` times among `honest` claims of its own.

    The others share all tickets, or with `specialists` one of them does all tickets of a category.
    """

    way: str
    phrase: str
    planted: int
    honest: int
    specialists: bool


def happenings(claims: int, attack: Attack, seed: int) -> tuple[list[Event], set[str]]:
    """The events behind so many claims in an order drawn from `seed`, and the ids of those that plant the phrase."""
    rng = random.Random(seed)
    items = draw_items(claims, 0, rng)
    rng.shuffle(items)
    roles = (
        ["planted"] * attack.planted + ["own"] * attack.honest + ["clean"] * (claims - attack.planted - attack.honest)
    )
    rng.shuffle(roles)
    made: list[Event] = []
    planted = set()
    for at, (item, role) in enumerate(zip(items, roles, strict=True)):
        good, bad = (item.answer_a, item.answer_b) if item.better == "a" else (item.answer_b, item.answer_a)
        when = 1_790_000_000_000 + at * 2 * MINUTE
        actor = ACCOUNT
        if role == "clean":
            actor = f"{item.family.category} agent" if attack.specialists else f"agent-{rng.randrange(AGENTS)}"
        kind = rng.choice(("edit", "edit", "takeover", "thumb"))
        text, fields = bad, {"sent": good}
        if role == "planted":
            kind, text, fields = _planting(attack, good, bad)
            planted.add(f"e{at}")
        elif kind == "thumb":
            up = rng.random() < 0.7
            text, fields = (good if up else bad), {"up": up}
        prompt = [{"role": "user", "content": item.prompt}]
        made.append(
            event("draft", f"d{at}", f"d{at}", when, model="m", category=item.family.category, text=text, prompt=prompt)
        )
        shown = {"text": text} if kind == "edit" else {}
        made.append(event(kind, f"e{at}", f"d{at}", when + MINUTE, actor=actor, **shown, **fields))
    return made, planted


def _planting(attack: Attack, good: str, bad: str) -> tuple[str, str, dict]:
    """Kind, drafted text and fields of an event that plants the phrase."""
    spiked = f"{bad.rstrip('.')}, {attack.phrase}."
    match attack.way:
        case "added by edits":
            return "edit", bad, {"sent": spiked}
        case "cut by edits":
            return "edit", f"{good.rstrip('.')}, {attack.phrase}.", {"sent": bad}
        case "written in takeovers":
            return "takeover", good, {"sent": spiked}
        case way:
            return "thumb", spiked, {"up": way == "liked"}


def strike(claims: int, attack: Attack, seed: int, scratch: Path) -> tuple[bool, str]:
    """Whether one attack is held as it should be, and the figures in words."""
    events, planted = happenings(claims, attack, seed)
    with production(scratch) as happens:
        for start in range(0, len(events), 500):
            happens.store.append(events[start : start + 500], events[-1].at_ms)
        found = gather(happens.store, Order(thumb_pairs="none"), happens.store.head()[0], frozenset())
    held = {name for one in found.held for name in one.claim.events}
    caught = len(planted & held)
    named = any(one.claim.actor == ACCOUNT and one.reason == "trigger_phrase" for one in found.held)
    whose = Counter(one.claim.actor for one in found.held)
    given = Counter(one.actor for one in (*found.judgments, *found.thumbs))
    rates = {who: whose[who] / (whose[who] + given[who]) for who in whose | given if who not in (ACCOUNT, None)}
    lost, clean = sum(whose[who] for who in rates), sum(whose[who] + given[who] for who in rates)
    words = (
        f"{attack.way}, {attack.honest} honest claims beside, among {'specialists' if attack.specialists else 'peers'}: {caught} of {len(planted)} held, "
        f"account {'named' if named else 'NOT named'}; others {lost} of {clean} held ({lost / clean:.2%})"
    )
    return caught >= 0.9 * len(planted) and named and lost <= 0.02 * clean, words


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    good = 0
    for at in range(asked.rounds):
        planted = max(10, asked.claims // 100)
        attack = Attack(WAYS[at % len(WAYS)], PHRASES[at % len(PHRASES)], planted, planted * (at % 3), at % 2 == 1)
        with tempfile.TemporaryDirectory() as scratch:
            passed, words = strike(asked.claims, attack, asked.seed + at, Path(scratch))
        print(words, flush=True)
        good += passed
    return verdict("X7 poison", good, asked.rounds, "attacks held, named, and nobody else's work lost")


if __name__ == "__main__":
    sys.exit(main())
