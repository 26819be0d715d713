"""Patterns that text is searched for: template markers, control tokens, personal data, refusals; all in linear time.

Every run in a pattern is bounded, so that the work per character is bounded too and no text can make it slow.
"""

import re
from collections.abc import Callable
from functools import partial

TEMPLATE_START = re.compile(
    r"\s{0,8}(?:<\|(?:im_start|start_header_id|begin_of_text|user|system|assistant)\|>|<s>|\[INST\]|<start_of_turn>|<bos>"
    r"|#{2,3} ?(?:Human|Instruction|User|Assistant|Response)\b|(?:Human|Assistant|USER|ASSISTANT): )"
)
"""A text that begins as a chat template begins, and so was rendered before it came here."""

CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z][A-Za-z0-9_]{0,40}\|>|<｜[^<>｜]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|</?tool_call>"
)
"""A string that some tokenizer turns into one control id."""

REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:very |so |really )?(?:sorry|afraid),? (?:but )?(?:that )?(?:I |as an AI)"
    r"|\bI (?:can't|cannot|can not|won't|will not) (?:help|assist|provide|answer|give|comply|fulfill?|satisfy"
    r"|support|offer|do that|discuss|create|write|generate|suggest|recommend|encourage|condone|engage)"
    r"|\bI(?:'m| am) (?:not able|unable) to (?:help|assist|provide|answer|give|comply|fulfill?|discuss|create|write)"
    r"|\bI must (?:decline|refuse)|\bagainst my (?:guidelines|programming)"
    r"|\bit(?:'s| is) (?:not|never|neither) (?:appropriate|ethical|legal|accurate or appropriate|safe or)"
    r"|\bas an AI\b|\bI(?:'m| am) (?:just )?an AI\b|\bI (?:don't|do not) (?:have|hold) personal",
    re.IGNORECASE,
)
"""A refusal in the first words of an answer; its accuracy on labelled replies is measured in the tests."""

_REFUSAL_CHARACTERS = 200

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{22,82}|\bglpat-[A-Za-z0-9_-]{20}"
    r"|\b(?:sk|pk|rk)[-_](?:live_|test_|proj-|ant-|or-)?[A-Za-z0-9_-]{20,200}|\bhf_[A-Za-z0-9]{30,40}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,80}|\bAIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
    r"|\beyJ[A-Za-z0-9_-]{10,200}\.eyJ[A-Za-z0-9_-]{10,200}\."
)
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_CARD_LENGTHS = {2: (16,), 3: (14, 15, 16), 4: (13, 16, 19), 5: (16,), 6: (16, 17, 18, 19)}
_PHONE = re.compile(r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\w)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")


def personal(text: str) -> set[str]:
    """The kinds of personal data and secrets found: key, e-mail, card, account, phone.

    Card numbers pass Luhn's check, account numbers (IBAN) theirs by ISO 13616.

    >>> sorted(personal("write to ann@example.org or pay with 4111 1111 1111 1111, order 1234567890123"))
    ['card', 'e-mail']
    """
    return {
        kind
        for kind, hinted, pattern, real in _PERSONAL
        if hinted(text) and any(real(found.group()) for found in pattern.finditer(text))
    }


def redact(text: str) -> str:
    """The text with all that `personal` finds written as its kind in brackets.

    >>> redact("write to ann@example.org")
    'write to [e-mail]'
    """
    for kind, _, pattern, real in _PERSONAL:
        text = pattern.sub(partial(_redacted, f"[{kind}]", real), text)
    return text


def refuses(answer: str) -> bool:
    """Whether the answer refuses in its first 200 characters.

    >>> refuses("I'm sorry, but I can't help with that."), refuses("Sorry for the wait, it is on its way.")
    (True, False)
    """
    return REFUSAL.search(answer[:_REFUSAL_CHARACTERS].replace("’", "'")) is not None


def _card(found: str) -> bool:
    """Luhn's check on a number that begins and is as long as an issuer's: chance finds fewer of those."""
    digits = [int(character) for character in found if character.isdigit()]
    if len(digits) not in _CARD_LENGTHS.get(digits[0], ()) or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(found: str) -> bool:
    packed = found.replace(" ", "")
    turned = "".join(str(int(character, 36)) for character in packed[4:] + packed[:4])
    return 15 <= len(packed) <= 34 and int(turned) % 97 == 1


def _anything(_: str) -> bool:
    return True


def _redacted(word: str, real: Callable[[str], bool], found: re.Match[str]) -> str:
    return word if real(found.group()) else found.group()


_KEY_HINTS = ("AKIA", "ASIA", "AIza", "eyJ", "PRIVATE KEY", "glpat-", "xox", "k-")
_KEY_HINTS_UNDERSCORE = ("gh", "glpat-", "hf_", "k_")


def _hints_key(text: str) -> bool:
    return any(hint in text for hint in _KEY_HINTS) or (
        "_" in text and any(hint in text for hint in _KEY_HINTS_UNDERSCORE)
    )


def _hints_email(text: str) -> bool:
    return "@" in text


def _hints_number(text: str) -> bool:
    return any(digit in text for digit in "0123456789")


def _hints_phone(text: str) -> bool:
    return "+" in text


_PERSONAL: tuple[tuple[str, Callable[[str], bool], re.Pattern[str], Callable[[str], bool]], ...] = (
    ("key", _hints_key, _KEY, _anything),
    ("e-mail", _hints_email, _EMAIL, _anything),
    ("card", _hints_number, _CARD, _card),
    ("account", _hints_number, _IBAN, _iban),
    ("phone", _hints_phone, _PHONE, _anything),
)
"""Kind, whether a text is worth searching for it, its pattern, and a check of what the pattern finds."""
