"""Texts to tokens, once: kept in a folder under a hash of all that decides them, and mapped from there."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import PreferencePair
from evenhand.files import canonical_json, sha256_file
from evenhand.model.encode import Encoding, encode_pair, encode_pairs
from evenhand.model.modes import Form, encoder_for, template_fingerprint, tokenizer_fingerprint
from evenhand.model.store import stored_encoding

# The code and the libraries that make the tokens.
_FILES = ("encode.py", "modes.py", "store.py", "template.py")
_PACKAGES = ("tokenizers", "transformers", "jinja2")
_TOLD_EVERY = 100

# Told how many pairs are done.
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What turns texts into tokens, and the folder to keep them in; None keeps them in memory."""

    tokenizer: PreTrainedTokenizerBase
    form: Form
    folder: Path | None = None

    def encode(
        self, pairs: Sequence[PreferencePair], side: str, source: str, report: Told = lambda _: None
    ) -> Encoding:
        """The pairs as tokens, in files that begin with `side`; refusals name their row in `source`."""
        if not pairs:
            return Encoding((), ())
        encoder, limits = encoder_for(self.tokenizer, self.form), self.form.limits
        if self.folder is None:
            return encode_pairs(_counted(pairs, report), encoder, limits, source)
        return stored_encoding(
            self.folder,
            side,
            self.key(pairs, source),
            lambda: (encode_pair(pair, encoder, limits, source) for pair in _counted(pairs, report)),
        )

    def key(self, pairs: Iterable[PreferencePair], source: str) -> str:
        """One hash of what the pairs say, in their order, and of tokenizer, template, limits and code."""
        digest = hashlib.sha256()
        own = tokenizer_fingerprint(self.tokenizer), template_fingerprint(self.tokenizer, self.form)
        digest.update(canonical_json([source, asdict(self.form), *own, *_makers()]))
        for pair in pairs:
            digest.update(canonical_json([pair.row, pair.json()]))
        return digest.hexdigest()


@cache
def _makers() -> tuple[str, ...]:
    own = (sha256_file(Path(__file__).parent / name) for name in _FILES)
    return (*own, *(version(name) for name in _PACKAGES))


def _counted(pairs: Sequence[PreferencePair], report: Told) -> Iterator[PreferencePair]:
    for done, pair in enumerate(pairs, 1):
        yield pair
        if done % _TOLD_EVERY == 0 or done == len(pairs):
            report(done)
