"""Rules with a limit that the user sets: categories, judgments of one annotator, lengths, and a balance of lengths."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from evenhand.data.bench import Bench, Dropped, Encode, by_item
from evenhand.data.bias import longer_won
from evenhand.data.category import category_of
from evenhand.data.schema import Judgment
from evenhand.errors import DataError


def too_long(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments whose prompt or answer has more characters, or tokens together, than the rules allow."""
    dropped: Dropped = {}
    rules = bench.rules
    for at in alive:
        asked, *told = bench.facts.measures.characters_NT[bench.order[at]].tolist()
        if rules.max_prompt_characters is not None and asked > rules.max_prompt_characters:
            dropped[at] = f"the prompt has {asked} characters"
        elif rules.max_answer_characters is not None and max(told) > rules.max_answer_characters:
            dropped[at] = f"an answer has {max(told)} characters"
        elif rules.max_tokens is not None and (tokens := _tokens(bench, at)) > rules.max_tokens:
            dropped[at] = f"prompt and longer answer have {tokens} tokens"
    return dropped


def _tokens(bench: Bench, at: int) -> int:
    if bench.encode is None:
        raise DataError("the rule `too_long` has a limit in tokens and no tokenizer counts them; name one.")
    return tokens_of(bench.judgment(at), bench.encode)


def tokens_of(own: Judgment, encode: Encode) -> int:
    """Tokens of the prompt's turns and of the longer answer, without what a template adds."""
    asked = sum(len(encode(message.content)) for message in own.prompt)
    return asked + max(len(encode(own.answer_a)), len(encode(own.answer_b)))


def by_category(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments outside the wanted categories, or inside the unwanted ones."""
    only, without = bench.rules.only_categories, bench.rules.without_categories
    dropped: Dropped = {}
    if only is None and not without:
        return dropped
    for at in alive:
        name = bench.ballots[at].category or category_of(bench.judgment(at).prompt)
        if name in without or (only is not None and name not in only):
            dropped[at] = f"the category is {name}"
    return dropped


def over_the_cap(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments of an annotator beyond the cap; which ones stay is decided by their content's hash."""
    most, given = bench.rules.annotator_cap, Counter[str]()
    dropped: Dropped = {}
    for at in sorted(alive, key=lambda at: (bench.same[at].item, at)) if most is not None else ():
        if (who := bench.ballots[at].annotator) is not None and most is not None:
            given[who] += 1
            if given[who] > most:
                dropped[at] = f"{who} gave more than {most} judgments"
    return dropped


def unlike_in_length(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments between answers so unlike in length that length alone may have decided them."""
    most = bench.rules.max_length_ratio
    dropped: Dropped = {}
    for at in alive if most is not None else ():
        short, long = sorted((bench.ballots[at].length_a, bench.ballots[at].length_b))
        if most is not None and long > most * short:
            dropped[at] = f"the answers have {short} and {long} characters"
    return dropped


def out_of_balance(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items of the more frequent kind, longer answer won or shorter won, until both are as many, in each category.

    Which ones go is decided by their content's hash, which is as good as by chance.
    """
    dropped: Dropped = {}
    if not bench.rules.balance_length:
        return dropped
    sides: dict[str, dict[bool, list[list[int]]]] = defaultdict(lambda: {True: [], False: []})
    for _, members in sorted(by_item(bench, alive).items()):
        ballot = bench.ballots[members[0]]
        if (longer := longer_won(ballot)) is not None:
            sides[ballot.category or category_of(bench.judgment(members[0]).prompt)][longer].append(members)
    for both in sides.values():
        kept = min(len(both[True]), len(both[False]))
        for longer, items in both.items():
            words = f"one of {len(items)} where the {'longer' if longer else 'shorter'} answer won, {kept} kept"
            dropped |= {at: words for members in items[kept:] for at in members}
    return dropped
