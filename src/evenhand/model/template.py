"""A tokenizer's chat template, rendered once and cut only at the template's own control tokens."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import Message
from evenhand.errors import ConversationError, TemplateError
from evenhand.files import canonical_json, sha256

Conversation = tuple[Message, ...]

# Planes 15 and 16 of Unicode are for private use: no template and no real text contains them.
_MARKER_BASE = 0xF0000
_SHIELD_BASE = 0x100000
_CUT = "\U000fffff"  # a token of its own that stands for nothing: no merge reaches across it
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Piece:
    """An added token: its text, its id, and whether it is one that only a template may write."""

    text: str
    token_id: int
    special: bool


class ChatTemplate:
    """Turns conversations into the tokens that serving would see, and keeps user text from becoming control tokens.

    A second tokenizer is built whose added tokens are spelled as private-use markers. The template's own control
    strings are replaced by their markers and the text of messages is not, so that one tokenisation of the whole
    gives the template's control tokens their ids and leaves everything a person wrote as text.

    In an assistant's answer only special tokens are kept as text: markers that models write themselves, such as
    `<think>`, are ordinary vocabulary there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any] | None = None) -> None:
        """`arguments` go to the template, such as `enable_thinking`.

        Raises TemplateError for a tokenizer without chat template or without a fast backend.
        """
        if not tokenizer.chat_template:
            raise TemplateError(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; give a chat model, or set "
                "`data.template: plain` to train a base model on prompt, newline, answer, end of text."
            )
        self.tokenizer = tokenizer
        self.arguments = dict(arguments or {})
        self.pieces = added_pieces(tokenizer)
        self._marker_of = {piece.text: chr(_MARKER_BASE + i) for i, piece in enumerate(self.pieces)}
        self._shield_of = {piece.text: chr(_SHIELD_BASE + i) for i, piece in enumerate(self.pieces)}
        self._any_piece = _alternatives([piece.text for piece in self.pieces])
        self._special_piece = _alternatives([piece.text for piece in self.pieces if piece.special])
        self._shadow, self._true_id = _shadow_tokenizer(tokenizer, self.pieces)
        # A vocabulary without all characters gives "unknown" for text, so that token controls nothing.
        controls = [piece for piece in self.pieces if piece.special and piece.token_id != tokenizer.unk_token_id]
        self._control_ids = frozenset(piece.token_id for piece in controls)
        self._special_markers = {self._marker_of[piece.text] for piece in controls}
        self._opening = _opening_tokens(tokenizer)
        self._head = lru_cache(maxsize=1)(self._prompt)  # all answers to a prompt come one after another
        self.end_of_turn = self._find_end_of_turn()

    @property
    def fingerprint(self) -> str:
        """A hash of the template's text and arguments."""
        return sha256(canonical_json({"template": self.tokenizer.chat_template, "arguments": self.arguments}))

    def prompt_tokens(self, prompt: Conversation) -> list[int]:
        """The prompt with its generation prompt: what a server feeds before the first token of the answer."""
        return self._ids(self._marked(prompt, open_turn=True))

    def sides(self, prompt: Conversation, answer: str) -> tuple[list[int], int]:
        """All tokens of prompt and answer, its end-of-turn token last, and the index at which the answer starts.

        Raises TemplateError where the prompt with its generation prompt does not begin the whole.
        """
        head, whole = self._head_and_whole(prompt, answer)
        try:
            end = whole.index(self.end_of_turn, len(head)) + 1
        except ValueError:
            return [*whole, self.end_of_turn], len(head)
        return whole[:end], len(head)

    def _head_and_whole(self, prompt: Conversation, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of the prompt with its generation prompt, and of all: the first are always the second's beginning."""
        head_text, head = self._head(prompt)
        text = self._marked((*prompt, Message("assistant", answer)), open_turn=False)
        whole = self._ids(text)
        if whole[: len(head)] == head:
            return head, whole
        if not text.startswith(head_text):
            raise TemplateError(self._prefix_difference(head, whole))
        # The answer's beginning (an empty line, say) would merge with the prompt's end, which a server has fed by then.
        return head, head + self._raw_ids(_CUT + text[len(head_text) :])[1:]

    def _prompt(self, prompt: Conversation) -> tuple[str, list[int]]:
        text = self._marked(prompt, open_turn=True)
        return text, self._ids(text)

    def _marked(self, conversation: Conversation, open_turn: bool) -> str:
        """The rendered text with the template's own controls as markers and everything a person wrote as it was."""
        text = self._render(self._shielded(conversation), open_turn)
        text = self._any_piece.sub(lambda match: self._marker_of[match[0]], text)
        for original, shield in self._shield_of.items():
            text = text.replace(shield, original)
        return text

    def _ids(self, marked: str) -> list[int]:
        ids = self._raw_ids(marked)
        return ids if ids[: len(self._opening)] == self._opening else self._opening + ids

    def _raw_ids(self, marked: str) -> list[int]:
        ids = self._shadow.encode(marked, add_special_tokens=False).ids
        for place in [k for k, i in enumerate(ids) if i in self._true_id]:
            ids[place] = self._true_id[ids[place]]
        written = sum(map(marked.count, self._special_markers))
        assert len(list(filter(self._control_ids.__contains__, ids))) == written, "text became a control token"
        return ids

    def _shielded(self, conversation: Conversation) -> list[dict[str, str]]:
        """The messages with every control string hidden from the template."""
        messages = []
        for message in conversation:
            _refuse_private(message.content)
            controls = self._special_piece if message.role == "assistant" else self._any_piece
            content = controls.sub(lambda match: self._shield_of[match[0]], message.content)
            messages.append({"role": message.role, "content": content})
        return messages

    def _render(self, messages: list[dict[str, str]], open_turn: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=open_turn, **self.arguments
            )
        except Exception as error:  # a template may raise anything, and its author's sentence is the best we have
            roles = [message["role"] for message in messages]
            raise ConversationError(f"the chat template refuses a conversation with roles {roles}: {error}") from error
        return str(text)

    def _find_end_of_turn(self) -> int:
        """The first control token that the template writes after an answer, else the tokenizer's end of text."""
        head, whole = self._head_and_whole((Message("user", "a"),), "b")
        for token in whole[len(head) :]:
            if token in self._control_ids:
                return token
        if self.tokenizer.eos_token_id is None:
            raise TemplateError("the chat template ends an answer with no control token and the tokenizer has no eos.")
        return int(self.tokenizer.eos_token_id)

    def _prefix_difference(self, head: list[int], whole: list[int]) -> str:
        at = next((i for i, (a, b) in enumerate(zip(head, whole)) if a != b), min(len(head), len(whole)))
        show = self.tokenizer.decode
        return (
            f"the template's prompt is not a prefix of its conversation: at token {at} the prompt has "
            f"{show(head[at : at + 8])!r} and the conversation {show(whole[at : at + 8])!r}; "
            "use a template whose generation prompt begins the assistant's turn."
        )


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """Tokens of plain text: special tokens in it stay text; markers that models write themselves keep their ids.

    Raises TemplateError for a tokenizer without a fast backend.
    """
    pieces = added_pieces(tokenizer)
    shadow, true_id = _shadow_tokenizer(tokenizer, pieces)
    marker_of = {piece.text: chr(_MARKER_BASE + i) for i, piece in enumerate(pieces) if not piece.special}
    ordinary = _alternatives(list(marker_of))

    def encode(text: str) -> list[int]:
        _refuse_private(text)
        marked = ordinary.sub(lambda match: marker_of[match[0]], text)
        return [true_id.get(i, i) for i in shadow.encode(marked, add_special_tokens=False).ids]

    return encode


def _refuse_private(text: str) -> None:
    if private := _PRIVATE.search(text):
        raise ConversationError(
            f"the text {text[max(0, private.start() - 20) : private.end()]!r} ends in a private-use character, which "
            "evenhand needs to keep control tokens apart; remove it."
        )


def added_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """All added tokens of a tokenizer, longest text first, so that alternatives match greedily."""
    found = (Piece(token.content, i, bool(token.special)) for i, token in tokenizer.added_tokens_decoder.items())
    return tuple(sorted(found, key=lambda piece: (-len(piece.text), piece.token_id)))


def _alternatives(texts: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts) if texts else r"(?!)")


def _opening_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The BOS that the tokenizer puts before plain text by itself, or nothing."""
    with_special = list(tokenizer.encode("x", add_special_tokens=True))
    return [tokenizer.bos_token_id] if with_special and with_special[0] == tokenizer.bos_token_id else []


def _shadow_tokenizer(
    tokenizer: PreTrainedTokenizerBase, pieces: tuple[Piece, ...]
) -> tuple[Tokenizer, dict[int, int]]:
    """The same tokenizer with its added tokens spelled as markers, and the map from its ids to the true ones."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TemplateError(f"{type(tokenizer).__name__} has no fast backend; convert it with `AutoTokenizer` first.")
    description = json.loads(backend.to_str())
    flags = {token["id"]: token for token in description["added_tokens"]}
    description["added_tokens"] = []
    description["post_processor"] = None
    _forget_controls(description["model"], {piece.text for piece in pieces if piece.special})
    shadow = Tokenizer.from_str(json.dumps(description))
    shadow.no_padding()
    shadow.no_truncation()
    markers = []
    for i, piece in enumerate(pieces):
        flag = flags.get(piece.token_id, {})
        markers.append(
            AddedToken(
                chr(_MARKER_BASE + i),
                lstrip=flag.get("lstrip", False),
                rstrip=flag.get("rstrip", False),
                single_word=flag.get("single_word", False),
                normalized=False,
            )
        )
    shadow.add_special_tokens([*markers, AddedToken(_CUT, normalized=False)])
    true_id = {_id_of(shadow, chr(_MARKER_BASE + i)): piece.token_id for i, piece in enumerate(pieces)}
    return shadow, true_id


def _forget_controls(model: dict[str, Any], controls: set[str]) -> None:
    """Keep the vocabulary model from spelling a control token out of plain text."""
    if model.get("type") == "BPE":
        model["merges"] = [
            m for m in model["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) not in controls
        ]
    elif model.get("type") == "Unigram":
        model["vocab"] = [[text, -1e6 if text in controls else score] for text, score in model["vocab"]]


def _id_of(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    assert found is not None
    return int(found)
