"""A default category for prompts that came without one: the first rule in a printed table whose pattern is found."""

import re
from collections.abc import Sequence

from evenhand.data.schema import Message
from evenhand.files import sha256

OTHER = "other"

_RULES = (
    ("code", r"```|\b(?:python|javascript|java|c\+\+|sql|regex|bash|code|function|compile|debug)\b"),
    ("translation", r"\btranslat\w*\b|\b(?:into|to) (?:english|french|german|spanish|chinese|japanese)\b"),
    ("summary", r"\bsummar\w*\b|\btl;?dr\b|\bkey points\b"),
    ("rewriting", r"\b(?:rewrite|rephrase|paraphrase|proofread|edit|correct (?:the|this)|grammar)\b"),
    (
        "mathematics",
        r"\b(?:calculate|solve|equation|integral|probability|how many|how much|percent)\b|\d\s*[-+*/=]\s*\d",
    ),
    ("classification", r"\b(?:classify|categori[sz]e|sentiment|which of the following|label)\b"),
    ("writing", r"\b(?:write|compose|draft|story|poem|essay|email|letter|blog|slogan)\b"),
    ("account", r"\b(?:account|password|log ?in|sign in|subscription|plan|cancel\w*)\b"),
    ("billing", r"\b(?:invoice|refund|charg\w*|payment|paid|billing|card|receipt)\b"),
    ("shipping", r"\b(?:parcel|package|deliver\w*|shipping|shipment|courier|tracking|order)\b"),
    ("question", r"\b(?:what|why|who|when|where|which|how)\b|\?"),
)
RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple((name, re.compile(rule, re.IGNORECASE)) for name, rule in _RULES)

_CHARACTERS = 2000

DERIVATION = (
    "the first of evenhand's patterns found in the last user turn, version "
    + sha256("\n".join(f"{name} {rule}" for name, rule in _RULES).encode())[:12]
)
"""How a category is derived, in words that change when the patterns do."""


def category_of(prompt: Sequence[Message]) -> str:
    """The name of the first rule found in the last user turn's first 2,000 characters; `other` if none is.

    >>> category_of((Message("user", "Translate this letter into French: ..."),))
    'translation'
    >>> category_of((Message("user", "Hm."),))
    'other'
    """
    asked = [message.content for message in prompt if message.role == "user"] or [m.content for m in prompt]
    text = asked[-1][:_CHARACTERS] if asked else ""
    return next((name for name, rule in RULES if rule.search(text)), OTHER)
