"""The modes of encoding: plain text, and the two that give the tokens of TRL and of the authors."""

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
from chat_tokenizers import CHATML_BARE, chat_tokenizer
from transformers import PreTrainedTokenizerBase
from trl.data_utils import maybe_apply_chat_template, maybe_extract_prompt
from trl.experimental.cpo import CPOTrainer

from evenhand.data.schema import Message
from evenhand.errors import TemplateError
from evenhand.model.encode import EncodedSide
from evenhand.model.modes import (
    Form,
    authors_encoder,
    encoder_for,
    prompt_encoder,
    template_fingerprint,
    tokenizer_fingerprint,
    trl_encoder,
)
from evenhand.model.template import ChatTemplate

# Its generation prompt ends in a space that merges with a word, and not with a digit.
BORDER = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# Its generation prompt holds a marker that conversations lack.
MARKED = CHATML_BARE.replace("assistant\n{% endif", "assistant\n<tool_call>\n{% endif")


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def ids(tokenizer: PreTrainedTokenizerBase, *parts: str) -> list[int]:
    """The tokens of parts that no merge crosses."""
    return [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]


def by_trl(
    tokenizer: PreTrainedTokenizerBase, limit: int, prompt: tuple[Message, ...], answers: tuple[str, str]
) -> dict:
    """The row as TRL's CPOTrainer tokenises it."""
    trainer: Any = SimpleNamespace(processing_class=tokenizer, max_length=limit, is_encoder_decoder=False)
    trainer.build_tokenized_answer = MethodType(CPOTrainer.build_tokenized_answer, trainer)
    row: dict[str, Any] = {"prompt": [message.json() for message in prompt]}
    for name, answer in zip(("chosen", "rejected"), answers):
        row[name] = [Message("assistant", answer).json()]
    text = maybe_apply_chat_template(maybe_extract_prompt(row), processing_class=tokenizer)
    return dict(CPOTrainer.tokenize_row(trainer, text))


def labels(one: EncodedSide) -> list[int]:
    return [-100] * one.starts + one.tokens[one.starts :].tolist()


TRL_ROWS = [
    (family, template, limit, prompt, ("It left on Tuesday.", "no"))
    for family, template, limit in (
        ("chatml", None, 512),
        ("llama3", None, 512),
        ("mistral", None, 512),
        ("gemma", None, 512),
        ("chatml", BORDER, 512),
        ("chatml", MARKED, 512),
        ("llama3", None, 40),
        ("chatml", None, 66),
    )
    for prompt in ("Where is it?", "größer\n请稍等 🙂 <think>")
]
TRL_ROWS += [
    ("chatml", BORDER, 512, "yes or no", ("yes", "1")),
    ("chatml", BORDER, 512, "yes or no", ("1", "The answer is no.")),
    ("chatml", None, 512, "Hi", ("\n\nHello", "<|im_end|>")),
    ("llama3", None, 512, "Hi", ("Hello<|eot_id|>", "Hello")),
    ("mistral", None, 24, "Hi", ("Where is my parcel? " * 4, "no")),
    ("gemma", None, 30, "Hi", ("no", "Where is my parcel? " * 4)),
    ("llama3", None, 30, "Hi", ("yes " * 40, "Where is my parcel? " * 4)),
]


@pytest.mark.parametrize(("family", "template", "limit", "prompt", "answers"), TRL_ROWS)
def test_trl_mode_is_trls_own_tokens_and_labels(
    family: str, template: str | None, limit: int, prompt: str, answers: tuple[str, str]
) -> None:
    tokenizer = chat_tokenizer(family, template)
    wanted = by_trl(tokenizer, limit, user(prompt), answers)
    chosen, rejected, cut = trl_encoder(tokenizer, limit)(user(prompt), *answers)
    for name, one in (("chosen", chosen), ("rejected", rejected)):
        if one.scored:
            assert one.tokens.tolist() == wanted[f"{name}_input_ids"]
            assert labels(one) == wanted[f"{name}_labels"]
        else:  # nothing to learn from: TRL would train on its empty answer, which encoding refuses
            assert set(wanted[f"{name}_labels"]) == {-100}
    unlimited = by_trl(tokenizer, 10_000, user(prompt), answers)
    assert cut == tuple(name for name in ("chosen", "rejected") if len(unlimited[f"{name}_input_ids"]) > limit)


def test_trl_rows_hold_what_they_are_meant_to_hold() -> None:
    tokenizer = chat_tokenizer("chatml", BORDER)
    row = by_trl(tokenizer, 512, user("yes or no"), ("yes", "1"))
    assert row["chosen_labels"].count(-100) != row["rejected_labels"].count(-100)
    cuts = [trl_encoder(chat_tokenizer(f, t), n)(user(p), *a)[2] for f, t, n, p, a in TRL_ROWS]
    assert {("chosen",), ("rejected",), ("chosen", "rejected"), ()} <= set(cuts)
    assert len(TRL_ROWS) >= 20


def test_plain_mode_is_prompt_newline_answer_eos() -> None:
    tokenizer = chat_tokenizer("llama3")
    encode = encoder_for(tokenizer, Form(100, template="plain"))
    prompt = (Message("system", "Be brief."), Message("user", "Where is it?"))
    chosen, rejected, cut = encode(prompt, "Here.", "There.")
    head = [tokenizer.bos_token_id, *ids(tokenizer, "Be brief.\n\nWhere is it?\n")]
    for one, answer in ((chosen, "Here."), (rejected, "There.")):
        assert one.tokens.tolist() == [*head, *ids(tokenizer, answer), tokenizer.eos_token_id]
        assert one.starts == len(head)
    assert cut == ()
    feed, stops = prompt_encoder(tokenizer, Form(100, template="plain"))
    assert feed(prompt) == head
    assert stops == {tokenizer.eos_token_id}


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral", "gemma"])
def test_plain_mode_lets_no_text_become_a_control_token(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    text = "a <|im_end|> <|eot_id|> </s><s> <end_of_turn> <eos> b"
    chosen, _, _ = encoder_for(tokenizer, Form(200, template="plain"))(user(text), text, "x")
    tokens = chosen.tokens.tolist()
    controls = [token for token in tokens if token in tokenizer.all_special_ids]
    assert controls == [*([] if family == "chatml" else [tokenizer.bos_token_id]), tokenizer.eos_token_id]
    assert tokenizer.decode(tokens[chosen.starts : -1]).strip() == text
    # The tokenizer is left as it was: its own controls are found again.
    assert tokenizer(tokenizer.eos_token, add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]


def test_plain_mode_needs_an_eos() -> None:
    tokenizer = chat_tokenizer("llama3")
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="eos"):
        encoder_for(tokenizer, Form(100, template="plain"))


def test_authors_mode_on_chatml() -> None:
    """Header and trailing newline are scored, an empty system turn is put first, and eos follows the newline."""
    tokenizer = chat_tokenizer("chatml", CHATML_BARE)
    chosen, rejected, cut = authors_encoder(tokenizer, 500, 400)(user("Where?"), "Here.", "There.")
    head = ids(
        tokenizer, "<|im_start|>", "system\n", "<|im_end|>", "\n", "<|im_start|>", "user\nWhere?", "<|im_end|>", "\n"
    )
    for one, answer in ((chosen, "Here."), (rejected, "There.")):
        tail = ids(tokenizer, "<|im_start|>", f"assistant\n{answer}", "<|im_end|>", "\n", "<|im_end|>")
        assert one.tokens.tolist() == head + tail
        assert one.starts == len(head)
    assert cut == ()


def test_authors_mode_on_llama3() -> None:
    """BOS stands once, the header is scored, and the end of turn is the eos, so that none is added."""
    tokenizer = chat_tokenizer("llama3")
    chosen, rejected, _ = authors_encoder(tokenizer, 500, 400)(user("Where?"), "Here.", "There.")
    opening, closing = "<|start_header_id|>", "<|end_header_id|>"
    head = ids(tokenizer, "<|begin_of_text|>", opening, "user", closing, "\n\n", "Where?", "<|eot_id|>")
    for one, answer in ((chosen, "Here."), (rejected, "There.")):
        assert one.tokens.tolist() == head + ids(tokenizer, opening, "assistant", closing, "\n\n", answer, "<|eot_id|>")
        assert one.starts == len(head)


def test_authors_mode_keeps_the_prompts_end_and_then_cuts_the_answers() -> None:
    tokenizer = chat_tokenizer("llama3")
    prompt, long, short = "one two three four five six seven", "eight nine ten " * 8, "ten"
    whole = authors_encoder(tokenizer, 10_000, 9_000)(user(prompt), long, short)
    question = whole[0].tokens[: whole[0].starts].tolist()
    answers = [one.tokens[one.starts :].tolist() for one in whole[:2]]
    longest = len(answers[0])
    assert longest > 30 > len(answers[1])
    roomy = authors_encoder(tokenizer, longest + 10, 10)(user(prompt), long, short)
    assert [one.tokens.tolist() for one in roomy[:2]] == [question[-10:] + answer for answer in answers]
    assert [one.starts for one in roomy[:2]] == [10, 10]
    assert roomy[2] == ()
    tight = authors_encoder(tokenizer, 40, 10)(user(prompt), long, short)
    assert tight[0].tokens.tolist() == question[-10:] + answers[0][:30]
    assert tight[1].tokens.tolist() == question[-10:] + answers[1]
    assert tight[2] == ("chosen",)


@pytest.mark.parametrize("compat", [None, "authors", "trl"])
def test_a_form_chooses_its_encoder(compat: Any) -> None:
    tokenizer = chat_tokenizer("chatml", CHATML_BARE)
    form = Form(500, compat=compat, max_prompt_tokens=400)
    found = encoder_for(tokenizer, form)(user("Hi"), "yes", "no")[0]
    match compat:
        case None:
            wanted = ChatTemplate(tokenizer).sides(user("Hi"), "yes")
        case "authors":
            one = authors_encoder(tokenizer, 500, 400)(user("Hi"), "yes", "no")[0]
            wanted = one.tokens.tolist(), one.starts
        case "trl":
            row = by_trl(tokenizer, 500, user("Hi"), ("yes", "no"))
            wanted = row["chosen_input_ids"], row["chosen_labels"].count(-100)
    assert (found.tokens.tolist(), found.starts) == tuple(wanted)


def test_only_strict_and_plain_forms_refuse_long_pairs() -> None:
    assert Form(64, drop_turns=True).limits.max_tokens == 64
    assert Form(64, drop_turns=True).limits.drop_turns
    assert Form(64, compat="trl").limits.max_tokens > 10**9


def test_a_server_stops_at_the_end_of_turn_and_at_eos() -> None:
    tokenizer = chat_tokenizer("gemma")
    feed, stops = prompt_encoder(tokenizer, Form(100))
    assert feed(user("Hi")) == ChatTemplate(tokenizer).prompt_tokens(user("Hi"))
    assert stops == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")}


def test_the_fingerprints_tell_templates_and_tokenizers_apart() -> None:
    forms = [Form(100), Form(100, template="plain"), Form(100, arguments={"enable_thinking": False})]
    found = [template_fingerprint(chat_tokenizer("chatml"), form) for form in forms]
    found += [
        template_fingerprint(chat_tokenizer(*which), Form(100)) for which in (("llama3",), ("chatml", CHATML_BARE))
    ]
    assert len(set(found)) == len(found)
    assert template_fingerprint(chat_tokenizer("chatml"), Form(100)) == found[0]
    assert tokenizer_fingerprint(chat_tokenizer("chatml")) == tokenizer_fingerprint(
        chat_tokenizer("chatml", CHATML_BARE)
    )
    changed = chat_tokenizer("chatml")
    changed.add_tokens(["a word of its own"])
    assert tokenizer_fingerprint(changed) != tokenizer_fingerprint(chat_tokenizer("chatml"))
