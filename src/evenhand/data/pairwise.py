"""Rows that were decided before they were written down: one answer chosen, one rejected."""

import re
from collections.abc import Callable

from evenhand.data.contest import Claims, contest
from evenhand.data.conversation import (
    Prompt,
    answer_of,
    checked_prompt,
    conversation_of,
    is_conversation,
    messages_of,
    prompt_of,
    reply_of,
    shared_prompt,
    with_system,
)
from evenhand.data.fields import Fields, clean_text, label, listed, number, present, spoken
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Message

HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))


def decided(fields: Fields, prompt: Prompt, chosen: str, rejected: str) -> Claims:
    """The claim that `chosen` beat `rejected`, by whoever the row names as annotator."""
    found = contest(chosen, rejected, "a", label(fields, "annotator"))
    return Claims(with_system(fields, prompt), (found,), notes=score_notes(fields))


def score_notes(fields: Fields) -> tuple[str, ...]:
    """A note if the row's own scores do not say what its columns say."""
    for chosen_name, rejected_name in SCORES:
        if fields.get(chosen_name) is None or fields.get(rejected_name) is None:
            continue
        chosen, rejected = number(fields[chosen_name], chosen_name), number(fields[rejected_name], rejected_name)
        if chosen < rejected:
            return ("chosen_scored_lower",)
        if chosen == rejected:
            return ("chosen_scored_equal",)
    return ()


def read_plain(fields: Fields) -> Claims:
    """`prompt` (or `question`), `chosen` and `rejected` as text, with an optional `system`."""
    name = "prompt" if "prompt" in fields or "question" not in fields else "question"
    prompt = prompt_of(spoken(fields, name), name)
    return decided(fields, prompt, spoken(fields, "chosen"), spoken(fields, "rejected"))


def read_messages(fields: Fields, name: str = "prompt") -> Claims:
    """A prompt with answers as messages; whole conversations as answers must continue that prompt."""
    chosen, rejected = present(fields, "chosen"), present(fields, "rejected")
    if is_conversation(chosen) or is_conversation(rejected):
        return read_continued(fields, name)
    prompt = prompt_of(present(fields, name), name)
    return decided(fields, prompt, answer_of(chosen, "chosen"), answer_of(rejected, "rejected"))


def read_continued(fields: Fields, name: str) -> Claims:
    """UltraFeedback's form: the prompt stands in `prompt` and again at the beginning of both answers."""
    chosen_prompt, chosen = conversation_of(fields["chosen"], "chosen")
    rejected_prompt, rejected = conversation_of(fields["rejected"], "rejected")
    prompt = shared_prompt(chosen_prompt, rejected_prompt)
    stated = present(fields, name)
    if isinstance(stated, str):
        agrees = any(turn.content == stated for turn in prompt if turn.role == "user")
    else:
        agrees = messages_of(stated, name) == prompt
    if not agrees:
        raise Unusable("different_prompts", f"`{name}` is not what `chosen` and `rejected` begin with")
    return decided(fields, prompt, chosen, rejected)


def read_beside(name: str) -> Callable[[Fields], Claims]:
    """A reader of rows whose prompt is a conversation in the field `name`, with two single answers beside it."""

    def read(fields: Fields) -> Claims:
        return read_messages(fields, name)

    return read


def read_implicit(fields: Fields) -> Claims:
    """`chosen` and `rejected` as whole conversations that share all but their last turn."""
    chosen_prompt, chosen = conversation_of(present(fields, "chosen"), "chosen")
    rejected_prompt, rejected = conversation_of(present(fields, "rejected"), "rejected")
    return decided(fields, shared_prompt(chosen_prompt, rejected_prompt), chosen, rejected)


def read_hh(fields: Fields) -> Claims:
    """HH-RLHF: both conversations as text with `\\n\\nHuman: ` and `\\n\\nAssistant: ` before each turn."""
    chosen = hh_turns(spoken(fields, "chosen"), "chosen")
    rejected = hh_turns(spoken(fields, "rejected"), "rejected")
    prompt = shared_prompt(chosen[:-1], rejected[:-1])
    return decided(fields, prompt, reply_of(chosen[-1], "chosen"), reply_of(rejected[-1], "rejected"))


def hh_turns(text: str, name: str) -> Prompt:
    """The turns of an HH-RLHF conversation.

    >>> [turn.content for turn in hh_turns("\\n\\nHuman: Hello\\n\\nAssistant: Hi!", "chosen")]
    ['Hello', 'Hi!']
    """
    before, *rest = HH_TURN.split(text)
    if before.strip() or not rest:
        raise Unusable("bad_role", f"`{name}` does not begin with `Human:`")
    turns = [Message("user" if who == "Human" else "assistant", said) for who, said in zip(rest[::2], rest[1::2])]
    for turn in turns:
        if not turn.content.strip():
            raise Unusable("empty", f"`{name}` has a {turn.role} turn that says nothing")
    return tuple(turns)


def read_instruction(fields: Fields) -> Claims:
    """LLaMA-Factory's Alpaca form: `instruction`, `input`, and `output` as [chosen, rejected] or two fields."""
    if isinstance(fields.get("output"), list):
        answers = listed(fields, "output")
        if len(answers) != 2:
            raise Unusable("different_lengths", f"`output` has {len(answers)} answers; it must be [chosen, rejected]")
        chosen, rejected = (answer_of(answer, f"output[{i}]") for i, answer in enumerate(answers))
    else:
        chosen, rejected = spoken(fields, "chosen"), spoken(fields, "rejected")
    turns = (*history_of(fields), Message("user", instruction_text(fields)))
    return decided(fields, checked_prompt(turns, "instruction"), chosen, rejected)


def instruction_text(fields: Fields) -> str:
    """`instruction` and `input` joined by a line break, as LLaMA-Factory joins them; either may be empty."""
    parts = [clean_text(present(fields, "instruction"), "instruction")]
    if fields.get("input") is not None:
        parts.append(clean_text(fields["input"], "input"))
    text = "\n".join(part for part in parts if part.strip())
    if not text:
        raise Unusable("empty", "`instruction` and `input` are both empty")
    return text


def history_of(fields: Fields) -> Prompt:
    """Earlier turns, kept as a list of [user, assistant] texts."""
    if fields.get("history") is None:
        return ()
    turns: list[Message] = []
    for index, exchange in enumerate(listed(fields, "history")):
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Unusable("wrong_type", f"`history[{index}]` is not a list of two texts")
        turns.append(Message("user", clean_text(exchange[0], f"history[{index}][0]")))
        turns.append(Message("assistant", clean_text(exchange[1], f"history[{index}][1]")))
    return tuple(turns)


def read_openai(fields: Fields) -> Claims:
    """OpenAI's preference form: `input.messages`, `preferred_output`, `non_preferred_output`."""
    asked = present(fields, "input")
    if not isinstance(asked, dict):
        raise Unusable("wrong_type", "`input` is not an object with `messages`")
    prompt = prompt_of(listed(asked, "messages"), "input.messages")
    chosen = answer_of(present(fields, "preferred_output"), "preferred_output")
    rejected = answer_of(present(fields, "non_preferred_output"), "non_preferred_output")
    return decided(fields, prompt, chosen, rejected)


def read_swift(fields: Fields) -> Claims:
    """ms-swift: `messages` ends in the chosen answer, `rejected_response` is the other one."""
    prompt, chosen = conversation_of(present(fields, "messages"), "messages")
    return decided(fields, checked_prompt(prompt, "messages"), chosen, spoken(fields, "rejected_response"))
