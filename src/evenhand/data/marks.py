"""What a judgment's texts look like, as bits: set in one pass, counted by the checks and the bias figures."""

import re

from evenhand.data.patterns import CONTROL_TOKEN, TEMPLATE_START, personal, refuses

_HEAD_CHARACTERS = 200
_SAMPLE_CHARACTERS = 500
_LONGEST_WORD = 200
_FEWEST_CHARACTERS = 40
_FEWEST_DISTINCT = 8
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")

LIST_STARTS = ("\n- ", "\n* ", "\n• ", "\n1. ", "\n1) ")
MARKUP = ("**", "```", "\n#", "\n|")


class Mark:
    """The bits. Those of an answer come in pairs, for answer a and for answer b."""

    A_IS_FIRST = 1 << 0  # answer a is the one whose key sorts first
    TEMPLATE = 1 << 1  # a text begins as a chat template begins
    CONTROL = 1 << 2  # a control string stands inside a text
    EMPTY = 1 << 3  # a text says nothing
    IDENTICAL = 1 << 4  # the answers differ in case and white space at most
    NEAR_TIE = 1 << 5  # the answers differ in less than one character in a hundred
    WORDLESS = 1 << 6  # a text is no language
    KEY = 1 << 7
    EMAIL = 1 << 8
    CARD = 1 << 9
    ACCOUNT = 1 << 10
    PHONE = 1 << 11
    A_REFUSES = 1 << 12
    B_REFUSES = 1 << 13
    A_LIST = 1 << 14
    B_LIST = 1 << 15
    A_MARKUP = 1 << 16
    B_MARKUP = 1 << 17
    A_APOLOGY = 1 << 18
    B_APOLOGY = 1 << 19


PERSONAL = {
    "key": Mark.KEY,
    "e-mail": Mark.EMAIL,
    "card": Mark.CARD,
    "account": Mark.ACCOUNT,
    "phone": Mark.PHONE,
}
FEATURES = {
    "list": (Mark.A_LIST, Mark.B_LIST),
    "markdown": (Mark.A_MARKUP, Mark.B_MARKUP),
    "apology": (Mark.A_APOLOGY, Mark.B_APOLOGY),
    "refusal": (Mark.A_REFUSES, Mark.B_REFUSES),
}
"""Features of an answer, each with its bit for answer a and for answer b."""


def marks_of_texts(texts: list[str]) -> int:
    """The bits of all of a judgment's texts: template, control, empty, wordless and personal data."""
    marks = 0
    for text in texts:
        if TEMPLATE_START.match(text):
            marks |= Mark.TEMPLATE
        elif ("<" in text or "[" in text) and CONTROL_TOKEN.search(text):
            marks |= Mark.CONTROL
        if not text or text.isspace():
            marks |= Mark.EMPTY
        elif is_wordless(text):
            marks |= Mark.WORDLESS
        for kind in personal(text):
            marks |= PERSONAL[kind]
    return marks


def marks_of_answers(answer_a: str, answer_b: str) -> int:
    """The features of the two answers."""
    marks = 0
    for text, bits in ((answer_a, _BITS_A), (answer_b, _BITS_B)):
        a_list, markup, apology, refusal = bits
        if has_list(text):
            marks |= a_list
        if any(sign in text for sign in MARKUP) or text.startswith("#"):
            marks |= markup
        head = text[:_HEAD_CHARACTERS].lower()
        if "sorry" in head or "apolog" in head:
            marks |= apology
        if refuses(text):
            marks |= refusal
    return marks


_BITS_A, _BITS_B = zip(*FEATURES.values())


def has_list(text: str) -> bool:
    """Whether a line begins as an item of a list.

    >>> has_list("Do this:\\n- open the box\\n- look"), has_list("a - b")
    (True, False)
    """
    return ("\n" in text and any(start in text for start in LIST_STARTS)) or text.startswith(("- ", "* ", "1. ", "1) "))


def is_wordless(text: str) -> bool:
    """Whether a text is no language: fewer than a third letters and digits, one long run without a space, or one sound repeated.

    Looks at the first 500 characters; texts under 40 characters, such as `42`, are never called so, nor are scripts
    that write without spaces.

    >>> is_wordless("aaaa" * 20), is_wordless("0f3a9c" * 50), is_wordless("An order is late.")
    (True, True, False)
    """
    if len(text) < _FEWEST_CHARACTERS:
        return False
    sample = text[:_SAMPLE_CHARACTERS]
    if sample.count(" ") * 20 > len(sample) and "e" in sample:
        return False  # what most texts are; the rest looks closer
    if len(set(sample)) < _FEWEST_DISTINCT:
        return True
    if len(text) >= _LONGEST_WORD and " " not in sample and "\n" not in sample and not _UNSPACED.search(sample):
        return True
    return 3 * sum(map(str.isalnum, sample)) < len(sample) - sample.count(" ") - sample.count("\n")
