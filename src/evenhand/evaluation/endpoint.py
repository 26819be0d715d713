"""A model behind an OpenAI-compatible endpoint: asked many things at once, with back-off, and every answer kept."""

import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import openai

from evenhand.data.schema import Message
from evenhand.errors import UserError
from evenhand.evaluation.transcript import Answer, Transcript, request_key

KEY_VARIABLE = "EVENHAND_JUDGE_KEY"
Report = Callable[[int, int], None]
_LEADING = ("logprobs", "top_logprobs")
_REFUSED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
_NOT_ASKED = "not asked: the endpoint had failed too often in a row"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one try may take, how often it is tried, and how long is waited between: doubled each time, a
    server's Retry-After honoured. After `failures` questions in a row without an answer no more are asked."""

    timeout_seconds: float = 60.0
    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    failures: int = 8

    def wait_seconds(self, attempt: int, error: Exception) -> float:
        """Before the next try after `attempt` tries; up to a quarter more, so that many askers do not come together."""
        asked = _retry_after(error)
        own = self.first_wait_seconds * 2.0 ** (attempt - 1) * random.uniform(1.0, 1.25)
        return float(min(self.longest_wait_seconds, max(own, asked or 0.0)))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model answers, and how it is asked: greedily, `at_once` questions at a time.

    With `leading` above 0 it is asked for the probabilities of so many candidates for the first token of its answer; an
    endpoint that refuses the question for that is asked without.

    The API key is read from the environment variable `key_variable` when it is needed, and is in no value, file or
    message.
    """

    base_url: str
    model: str
    max_tokens: int = 64
    at_once: int = 4
    leading: int = 0
    key_variable: str = KEY_VARIABLE
    patience: Patience = field(default_factory=Patience)

    @property
    def name(self) -> str:
        """The model and its address, without user and password."""
        return f"{self.model} at {self.address}"

    @property
    def address(self) -> str:
        """The address without user, password, query and fragment.

        >>> Endpoint("http://ann:secret@127.0.0.1:8000/v1?key=secret", "m").address
        'http://127.0.0.1:8000/v1'
        """
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def request(self, messages: Sequence[Message]) -> dict[str, Any]:
        """All that is asked, as the transcript keeps it and the endpoint gets it."""
        return {
            "endpoint": self.address,
            "model": self.model,
            "messages": [message.json() for message in messages],
            "temperature": 0.0,
            "max_tokens": self.max_tokens,
            "seed": 0,
            **({"logprobs": True, "top_logprobs": self.leading} if self.leading else {}),
        }


def ask_all(
    endpoint: Endpoint,
    conversations: Sequence[Sequence[Message]],
    kept: Transcript,
    report: Report = lambda *_: None,
) -> list[Answer]:
    """An answer to each conversation, in order; those that `kept` holds are not asked again.

    A try that fails by time-out, connection, rate limit, a server's error or a malformed body is made again. A
    question that stays without an answer has `text` None and does not stop the others. Ctrl-C keeps what was
    answered. Raises UserError where the endpoint refuses the key, the model or the address.
    """
    requests = [endpoint.request(messages) for messages in conversations]
    keys = [request_key(request) for request in requests]
    found = {key: answer for key in keys if (answer := kept.reply(key))}
    missing = {key: request for key, request in zip(keys, requests) if key not in found}
    if missing:
        found |= _ask(endpoint, missing, kept, lambda done: report(len(found) + done, len(found) + len(missing)))
    return [found[key] for key in keys]


def _ask(
    endpoint: Endpoint, missing: Mapping[str, dict[str, Any]], kept: Transcript, report: Callable[[int], None]
) -> dict[str, Answer]:
    """Ask in as many threads as the endpoint is given; only this one writes."""
    found: dict[str, Answer] = {}
    with closing(_Asker(endpoint)) as asker, ThreadPoolExecutor(endpoint.at_once) as threads:
        futures = {threads.submit(asker.ask, request): key for key, request in missing.items()}
        try:
            for future in as_completed(futures):
                key, answer = futures[future], future.result()
                found[key] = answer
                if answer.error != _NOT_ASKED:
                    kept.keep((key, missing[key]), answer, datetime.now(UTC).isoformat(timespec="seconds"))
                report(len(found))
        except BaseException:
            asker.stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return found


class _Asker:
    """The client with what its threads share: the sign to stop, and how many questions failed in a row."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.key_variable, "")
        self._failures = 0
        self._gives_leading = True
        self.stop = threading.Event()
        try:
            self._client = openai.OpenAI(
                base_url=endpoint.base_url,
                api_key=self._key or "none",
                timeout=endpoint.patience.timeout_seconds,
                max_retries=0,
            )
        except ValueError as error:  # httpx cannot make a client of this address
            raise UserError(f"{endpoint.address!r} is no address of an endpoint ({self._safe(error)}).") from None

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def ask(self, request: dict[str, Any]) -> Answer:
        """One answer, after as many tries as patience allows."""
        patience = self._endpoint.patience
        said = _NOT_ASKED
        for attempt in range(1, patience.attempts + 1):
            if self.stop.is_set() or self._failures >= patience.failures:
                return Answer(None, attempt - 1, 0.0, _NOT_ASKED if attempt == 1 else said)
            began = time.monotonic()
            try:
                text, leading, cut = self._said(request)
            except _REFUSED as error:
                raise UserError(
                    f"the endpoint {self._endpoint.name} refuses every question ({self._safe(error)}); check its address "
                    f"and model, and put its key into ${self._endpoint.key_variable}."
                ) from None
            except (openai.APIError, ValueError) as error:
                said, seconds = self._safe(error), time.monotonic() - began
                if not _may_pass(error):
                    return Answer(None, attempt, seconds, said)
                if attempt < patience.attempts:
                    self.stop.wait(patience.wait_seconds(attempt, error))
            else:
                self._failures = 0
                return Answer(text, attempt, time.monotonic() - began, leading=leading, cut=cut)
        self._failures += 1
        return Answer(None, patience.attempts, seconds, said)

    def _said(self, request: dict[str, Any]) -> tuple[str, dict[str, float] | None, bool]:
        """The first choice's text, what its first token could have been, and whether it was cut; raises ValueError for another
        body."""
        left_out = {"endpoint"} if self._gives_leading else {"endpoint", *_LEADING}
        asked = {key: value for key, value in request.items() if key not in left_out}
        try:
            body: Any = self._client.chat.completions.create(**asked)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not asked.keys() & _LEADING:
                raise
            asked = {key: value for key, value in asked.items() if key not in _LEADING}
            body = self._client.chat.completions.create(**asked)
            self._gives_leading = False
        choices = getattr(body, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        content = getattr(message, "content", None)
        if message is not None and content is None:
            return "", None, False  # a refusal, or nothing said: an answer without words
        if not isinstance(content, str):
            raise ValueError("the body is no chat completion")
        return content, _leading(choices) if request.keys() & _LEADING else None, _is_cut(choices)

    def _safe(self, error: Exception) -> str:
        """An error in one line, without the key, which some servers send back."""
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return words.replace(self._key, "[key]") if self._key else words


def _is_cut(choices: Any) -> bool:
    """Whether the limit of tokens ended the first choice."""
    return getattr(choices[0], "finish_reason", None) == "length"


def _leading(choices: Any) -> dict[str, float] | None:
    """The probability of each candidate for the first token, by its text; None where the endpoint tells none."""
    tokens = getattr(getattr(choices[0], "logprobs", None), "content", None)
    candidates = getattr(tokens[0], "top_logprobs", None) if tokens else None
    found: dict[str, float] = {}
    for candidate in candidates or ():
        token, logprob = getattr(candidate, "token", None), getattr(candidate, "logprob", None)
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob <= 1e-6:
            found[token] = found.get(token, 0.0) + math.exp(logprob)
    return found or None


def _may_pass(error: Exception) -> bool:
    """Whether the same question may be answered at another time."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return True


def _retry_after(error: Exception) -> float | None:
    """The seconds that a server asks to wait, None where it does not tell or tells a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    try:
        return float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
