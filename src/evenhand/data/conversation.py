"""Message lists in the forms that people keep them, read as one prompt and one answer."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from evenhand.data.fields import Fields, clean_text, spoken_text, type_name
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Message, Role

Prompt = tuple[Message, ...]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}


def message_of(value: object, name: str) -> Message:
    """One turn, keyed role/content or from/value; an empty system turn may stay, any other must say something."""
    if not isinstance(value, dict):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)}, not a message")
    role_key, content_key = ("from", "value") if "from" in value else ("role", "content")
    for key in (role_key, content_key):
        if key not in value:
            raise Unusable("missing_key", f"`{name}` has no `{key}`; it has {sorted(map(str, value))[:8]}")
    if value.get("tool_calls"):
        raise Unusable("wrong_type", f"`{name}` holds tool calls as objects; write them into `{content_key}` as text")
    role = role_of(value[role_key], name)
    read = clean_text if role == "system" else spoken_text
    return Message(role, read(value[content_key], f"{name}.{content_key}"))


def role_of(word: object, name: str) -> Role:
    """The role a word stands for; Unusable (bad_role) for an unknown one."""
    role = ROLES.get(clean_text(word, f"{name} role").lower())
    if role is None:
        raise Unusable("bad_role", f"`{name}` has the unknown role {ascii(word)[:40]}; known are {sorted(ROLES)}")
    return role


def messages_of(value: object, name: str) -> Prompt:
    """A list of turns, each checked by itself."""
    if value is None:
        raise Unusable("null_value", f"`{name}` is null")
    if not isinstance(value, list):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)}, not a list of messages")
    return tuple(message_of(turn, f"{name}[{index}]") for index, turn in enumerate(value))


def prompt_of(value: object, name: str) -> Prompt:
    """A prompt given as text (one user turn) or as a message list that ends before the answer."""
    if isinstance(value, list):
        turns = messages_of(value, name)
    else:
        turns = (Message("user", spoken_text(value, name)),)
    return checked_prompt(turns, name)


def with_system(fields: Fields, prompt: Prompt) -> Prompt:
    """The prompt after the system turn that some rows keep in the column `system`; Unusable if it has another one."""
    if not fields.get("system"):
        return prompt
    system = Message("system", clean_text(fields["system"], "system"))
    if prompt[0].role != "system":
        return (system, *prompt)
    if prompt[0] != system:
        raise Unusable("bad_role", "`system` is not the system turn that the conversation begins with")
    return prompt


def checked_prompt(turns: Sequence[Message], name: str) -> Prompt:
    """The turns themselves if a reply can follow them; Unusable (bad_role) otherwise."""
    if not turns:
        raise Unusable("bad_role", f"`{name}` is an empty list of messages")
    spoken_turns = turns[1:] if turns[0].role == "system" else turns
    before = "system"
    for index, turn in enumerate(spoken_turns):
        if turn.role == "system":
            raise Unusable("bad_role", f"`{name}` has a system turn that is not the first turn")
        if turn.role == before and turn.role != "tool":
            raise Unusable("bad_role", f"`{name}` has two {turn.role} turns in a row, at turn {index + 1}")
        before = turn.role
    if before not in ("user", "tool"):
        raise Unusable("bad_role", f"`{name}` ends in {before}, so there is nothing to reply to")
    if spoken_turns[0].role != "user":
        raise Unusable("bad_role", f"`{name}` begins with {spoken_turns[0].role}, not with user")
    return tuple(turns)


def reply_of(turn: Message, name: str) -> str:
    """The text of an assistant turn; Unusable (bad_role) for another role."""
    if turn.role != "assistant":
        raise Unusable("bad_role", f"`{name}` ends in {turn.role}, not in assistant")
    return turn.content


def answer_of(value: object, name: str) -> str:
    """An answer given as text, as one message, or as a list of one assistant message."""
    if isinstance(value, dict):
        return reply_of(message_of(value, name), name)
    if not isinstance(value, list):
        return spoken_text(value, name)
    turns = messages_of(value, name)
    if len(turns) != 1:
        raise Unusable("bad_role", f"`{name}` has {len(turns)} messages where one assistant message is needed")
    return reply_of(turns[0], name)


def conversation_of(value: object, name: str) -> tuple[Prompt, str]:
    """A whole conversation as what was said before its last assistant turn, and that turn."""
    turns = messages_of(value, name)
    if not turns:
        raise Unusable("bad_role", f"`{name}` is an empty list of messages")
    return turns[:-1], reply_of(turns[-1], name)


def shared_prompt(chosen: Prompt, rejected: Prompt) -> Prompt:
    """The beginning that two conversations share, which must be all of both; Unusable otherwise."""
    if chosen == rejected:
        return checked_prompt(chosen, "chosen")
    first = first_user(chosen)
    if first is None or first != first_user(rejected):
        raise Unusable("different_prompts", "`chosen` and `rejected` do not begin with the same user turn")
    shared = len(shared_turns(chosen, rejected))
    raise Unusable("answers_diverge_early", f"the conversations share {shared} turns and part before their last turn")


def shared_turns(left: Prompt, right: Prompt) -> Prompt:
    """The turns that both begin with."""
    same = takewhile(lambda turns: turns[0] == turns[1], zip(left, right))
    return tuple(turn for turn, _ in same)


def first_user(turns: Prompt) -> Message | None:
    """The first user turn, None where there is none."""
    return next((turn for turn in turns if turn.role == "user"), None)


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of several messages rather than a lone answer."""
    return isinstance(value, list) and len(value) > 1
