"""The ways to turn a pair into tokens: strict (the default), plain text, and two that reproduce others' numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import Message
from evenhand.errors import TemplateError
from evenhand.files import canonical_json, sha256
from evenhand.model.encode import EncodedSide, Encoder, Limits, side
from evenhand.model.template import ChatTemplate, text_encoder

Conversation = tuple[Message, ...]
Sides = tuple[EncodedSide, EncodedSide, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Form:
    """How pairs become tokens. `compat` None is strict; `max_prompt_tokens` is only read by `authors`."""

    max_tokens: int
    template: Literal["chat", "plain"] = "chat"
    compat: Literal["authors", "trl"] | None = None
    max_prompt_tokens: int | None = None
    drop_turns: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        """What encoding refuses. Where answers are cut, only the compat modes decide what is too long."""
        return Limits(self.max_tokens if self.compat is None else 1 << 62, self.drop_turns)


def encoder_for(tokenizer: PreTrainedTokenizerBase, form: Form) -> Encoder:
    """The encoder of `form`; raises TemplateError where the tokenizer cannot give it."""
    if form.template == "plain":
        return plain_encoder(tokenizer)
    match form.compat:
        case "trl":
            return trl_encoder(tokenizer, form.max_tokens)
        case "authors":
            assert form.max_prompt_tokens is not None
            return authors_encoder(tokenizer, form.max_tokens, form.max_prompt_tokens)
    return strict_encoder(ChatTemplate(tokenizer, form.arguments))


def prompt_encoder(
    tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[Callable[[Conversation], list[int]], frozenset[int]]:
    """What a server feeds for a prompt, and the tokens at which it stops."""
    eos = frozenset() if tokenizer.eos_token_id is None else frozenset({int(tokenizer.eos_token_id)})
    if form.template == "plain":
        return plain_prompts(tokenizer), eos
    template = ChatTemplate(tokenizer, form.arguments)
    return template.prompt_tokens, eos | {template.end_of_turn}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """One hash of what turns text into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }
    return sha256(canonical_json(parts))


def template_fingerprint(tokenizer: PreTrainedTokenizerBase, form: Form) -> str:
    """One hash of what turns a conversation into text: the template, its arguments and a turn that it rendered."""
    parts = {"template": tokenizer.chat_template, "rendered": _sample(tokenizer, form), "arguments": form.arguments}
    return sha256(canonical_json(parts))


def _sample(tokenizer: PreTrainedTokenizerBase, form: Form) -> str | None:
    """A rendered turn: a template that writes today's date is another one tomorrow."""
    if form.template == "plain" or not tokenizer.chat_template:
        return None
    turn = [{"role": "user", "content": "a"}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **form.arguments))


def strict_encoder(template: ChatTemplate) -> Encoder:
    """Serving's own tokens: header in the prompt, one end-of-turn token scored, nothing cut."""

    @lru_cache(maxsize=16)  # a ranked row asks for each of its answers several times
    def one(prompt: Conversation, answer: str) -> EncodedSide:
        return side(*template.sides(prompt, answer))

    def encode(prompt: Conversation, chosen: str, rejected: str) -> Sides:
        return one(prompt, chosen), one(prompt, rejected), ()

    return encode


def plain_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """For base models without a template: prompt, newline, answer, end of text; control strings stay text.

    Raises TemplateError where the tokenizer has no end-of-text token to learn to stop at.
    """
    if tokenizer.eos_token_id is None:
        raise TemplateError("`data.template: plain` ends an answer with the tokenizer's eos, and this one has none.")

    prompt_tokens, text_tokens = plain_prompts(tokenizer), text_encoder(tokenizer)

    def encode(prompt: Conversation, chosen: str, rejected: str) -> Sides:
        head = prompt_tokens(prompt)

        def one(answer: str) -> EncodedSide:
            return side([*head, *text_tokens(answer), tokenizer.eos_token_id], len(head))

        return one(chosen), one(rejected), ()

    return encode


def plain_prompts(tokenizer: PreTrainedTokenizerBase) -> Callable[[Conversation], list[int]]:
    """The prompt's text and a newline, after the BOS that the tokenizer puts by itself."""
    text_tokens = text_encoder(tokenizer)
    opening = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []

    def encode(prompt: Conversation) -> list[int]:
        return opening + text_tokens("\n\n".join(message.content for message in prompt) + "\n")

    return encode


def trl_encoder(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Encoder:
    """The tokens of TRL 1.16's CPOTrainer: the text after the prompt's text is the answer, eos appended to it if it
    does not end in it, BOS put first whenever the tokenizer has one, answers cut to `max_tokens`."""

    def encode(prompt: Conversation, chosen: str, rejected: str) -> Sides:
        head = _rendered(tokenizer, prompt, open_turn=True)
        wholes = [_rendered(tokenizer, (*prompt, Message("assistant", a)), open_turn=False) for a in (chosen, rejected)]
        for whole in wholes:
            head = _common(head, whole)
        sides, cut = [], []
        for name, whole in zip(("chosen", "rejected"), wholes):
            tokens, starts = _glued(tokenizer, head, whole[len(head) :])
            if len(tokens) > max_tokens:
                tokens = tokens[:max_tokens]
                cut.append(name)
            sides.append(side(tokens, min(starts, len(tokens))))
        return sides[0], sides[1], tuple(cut)

    return encode


def authors_encoder(tokenizer: PreTrainedTokenizerBase, max_tokens: int, max_prompt_tokens: int) -> Encoder:
    """The tokens of princeton-nlp/SimPO: prompt and answer rendered apart, so that the assistant header and the
    template's trailing text are scored; the prompt's end kept up to `max_prompt_tokens` when a row is too long, then
    both answers cut to what is left of `max_tokens`."""

    def encode(prompt: Conversation, chosen: str, rejected: str) -> Sides:
        head = _rendered(tokenizer, _with_system(tokenizer, prompt), open_turn=False)
        glued = []
        for answer in (chosen, rejected):
            text = _rendered(tokenizer, (Message("assistant", answer),), open_turn=False)
            glued.append(_glued(tokenizer, head, text.removeprefix(tokenizer.bos_token or "")))
        longest = max(len(tokens) - starts for tokens, starts in glued)
        sides, cut = [], []
        for name, (tokens, starts) in zip(("chosen", "rejected"), glued):
            question, answer_tokens = tokens[:starts], tokens[starts:]
            if starts + longest > max_tokens:
                question = question[-max_prompt_tokens:]
            if len(question) + longest > max_tokens and len(answer_tokens) > max_tokens - max_prompt_tokens:
                answer_tokens = answer_tokens[: max_tokens - max_prompt_tokens]
                cut.append(name)
            sides.append(side(question + answer_tokens, len(question)))
        return sides[0], sides[1], tuple(cut)

    return encode


def _glued(tokenizer: PreTrainedTokenizerBase, head: str, tail: str) -> tuple[list[int], int]:
    """Tokens of `head + tail` with BOS first and eos last, and where the answer starts after a merge at the border."""
    whole = list(tokenizer(head + tail, add_special_tokens=False)["input_ids"])
    prompt = list(tokenizer(head, add_special_tokens=False)["input_ids"])
    starts = len(prompt) if whole[: len(prompt)] == prompt else len(prompt) - 1
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and whole[:1] != [bos]:
        whole, starts = [bos, *whole], starts + 1
    return (whole if whole[-1] == eos else [*whole, eos]), starts


def _rendered(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, open_turn: bool) -> str:
    messages: list[dict[str, Any]] = [message.json() for message in conversation]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))


def _common(a: str, b: str) -> str:
    length = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:length]


def _with_system(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> Conversation:
    """The authors put an empty system message first where the template's text suggests that it knows one."""
    if prompt[0].role == "system" or not any(
        mark in str(tokenizer.chat_template) for mark in ("system", "<|im_start|>")
    ):
        return prompt
    return (Message("system", ""), *prompt)


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    first = tokenizer.encode("x", add_special_tokens=True)[:1]
    return tokenizer.bos_token_id is not None and list(first) == [tokenizer.bos_token_id]
