"""Short tasks with one right answer each, made from a seed: facts out of a sentence, JSON, and a choice of two sums.

They are for telling two models of one size apart with no network, not for ranking models against the world.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evenhand.data.schema import Message, PreferencePair

EXTRACTION = "extraction"
JSON_FORMAT = "json_format"

_NAMES = ("Lena Ortiz", "Omar Haddad", "Mei Tanaka", "Jon Baker", "Ana Silva", "Kofi Mensah", "Eva Novak", "Raj Patel")
_CITIES = ("Porto", "Oslo", "Lyon", "Kyoto", "Quito", "Cairo", "Perth", "Turin", "Gdansk", "Boston")
_GOODS = ("lamp", "kettle", "tent", "jacket", "camera", "blender", "desk", "scarf", "drill", "clock")
_COLOURS = ("red", "blue", "green", "black", "white", "yellow")
_OBJECT = re.compile(r"\{.*?\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TaskItem:
    """A prompt with its right answer; `wrong` are values whose mention makes a reply wrong."""

    kind: str
    prompt: tuple[Message, ...]
    answer: str
    max_new_tokens: int
    wrong: tuple[str, ...] = ()

    def is_right(self, reply: str) -> bool:
        """Whether `reply` gives the answer, exactly."""
        return _RULES[self.kind](self, reply)


def task_items(kind: str, count: int, seed: int) -> list[TaskItem]:
    """`count` different items of a kind; the same arguments always give the same ones."""
    draw = random.Random(f"{kind} {seed}")
    items: dict[str, TaskItem] = {}
    while len(items) < count:
        item = _MAKERS[kind](draw)
        items.setdefault(item.prompt[-1].content, item)
    return list(items.values())


def sum_pairs(count: int, seed: int) -> list[PreferencePair]:
    """At most 108 sums, `chosen` right and `rejected` a little wrong: a choice that small models can make."""
    draw = random.Random(f"sums {seed}")
    sums = [(a, b) for a in range(1, 13) for b in range(1, 10)]
    draw.shuffle(sums)
    pairs = []
    for i, (a, b) in enumerate(sums[:count]):
        wrong = a + b + draw.choice((-2, -1, 1, 2, 3))
        prompt = (Message("user", f"What is {a} + {b}?"),)
        pairs.append(PreferencePair(f"sum {i}", i, f"sum {i}", prompt, f"{a} + {b} = {a + b}", f"{a} + {b} = {wrong}"))
    return pairs


def _asked(kind: str, text: str, answer: str, max_new_tokens: int, wrong: tuple[str, ...] = ()) -> TaskItem:
    return TaskItem(kind, (Message("user", text),), answer, max_new_tokens, wrong)


def _extraction(draw: random.Random) -> TaskItem:
    name, city, goods, colour = (draw.choice(kind) for kind in (_NAMES, _CITIES, _GOODS, _COLOURS))
    order = str(draw.randint(100, 999))
    text = f"{name} from {city} ordered a {colour} {goods}. The order number is {order}."
    facts = {
        "Who placed the order?": name,
        "In which city does the customer live?": city,
        "What was ordered?": goods,
        "What colour is it?": colour,
        "What is the order number?": order,
    }
    question = draw.choice(tuple(facts))
    wrong = tuple(value for asked, value in facts.items() if asked != question and asked in _ODD_ONES)
    return _asked(EXTRACTION, f"{text} {question} Answer briefly.", facts[question], 20, wrong)


# Naming the goods or the customer beside the fact asked for is no mistake; naming another number or city would be.
_ODD_ONES = ("What is the order number?",)


def _json_format(draw: random.Random) -> TaskItem:
    fields: dict[str, Any] = {
        "name": draw.choice(_NAMES).split()[0],
        "city": draw.choice(_CITIES),
        "item": draw.choice(_GOODS),
        "colour": draw.choice(_COLOURS),
        "order": draw.randint(10, 99),
        "price": draw.randint(10, 99),
    }
    kept = dict(sorted(draw.sample(sorted(fields.items()), 2)))
    said = ", ".join(f"{key} is {value}" for key, value in kept.items())
    keys = " and ".join(kept)
    text = f"Write one JSON object with the keys {keys}, and nothing else: {said}."
    return _asked(JSON_FORMAT, text, json.dumps(kept), 32)


def _right_fact(item: TaskItem, reply: str) -> bool:
    """The reply names the fact, and nothing that would be another one."""
    said = reply.lower()
    return _names(item.answer, said) and not any(_names(other, said) for other in item.wrong)


def _names(value: str, said: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", said) is not None


def _right_json(item: TaskItem, reply: str) -> bool:
    """The first object in the reply is JSON with exactly the fields asked for; a code fence around it is allowed."""
    found = _OBJECT.search(reply)
    try:
        return found is not None and json.loads(found[0]) == json.loads(item.answer)
    except ValueError:
        return False


_MAKERS: dict[str, Callable[[random.Random], TaskItem]] = {
    EXTRACTION: _extraction,
    JSON_FORMAT: _json_format,
}
_RULES: dict[str, Callable[[TaskItem, str], bool]] = {
    EXTRACTION: _right_fact,
    JSON_FORMAT: _right_json,
}
