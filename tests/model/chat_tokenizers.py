"""Small tokenizers with chat templates in the style of four families, trained here on a fixed text."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Where is my parcel? It left the harbour on Tuesday and should be with you by Friday, no later than 18:00.",
    "I cannot log in to my account; the link in the mail is broken and the support page says nothing about it.",
    "user assistant system model\nThe answer is yes.\n\nThe answer is no.\n\nIt is:  two.  You are a helpful assistant.",
    "Please restart the router, wait ten seconds, and then try to connect again. Does that help you?",
    "import os\n\ndef main():\n    return {'a': 1, 'b': [2, 3]}\n<p>Dear all & sundry</p> |end| im_start im_end\n\n",
    "One empty line.\n\n",
    "Das Paket ist noch unterwegs, größere Sendungen dauern länger. Où est mon colis ? Спасибо за помощь. 请稍等。",
]

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_BARE = CHATML[CHATML.index("{% for") :]
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
FAMILIES = ("chatml", "llama3", "mistral", "gemma")
END_OF_TURN = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}


def chat_tokenizer(family: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A new tokenizer of the family, with its own template or the one given."""
    kinds = {"chatml": _chatml, "llama3": _llama3, "mistral": _mistral, "gemma": _gemma}
    return kinds[family](template)


def _chatml(template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose controls are part of its vocabulary; no BOS; pad is the end of turn."""
    tokenizer = Tokenizer.from_str(_byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=template or CHATML
    )


def _llama3(template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose controls stand outside its vocabulary; BOS before plain text."""
    tokenizer = Tokenizer.from_str(_byte_level())
    controls = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in controls])
    _put_first(tokenizer, "<|begin_of_text|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
        chat_template=template or LLAMA3,
    )


def _mistral(template: str | None) -> PreTrainedTokenizerFast:
    """Unigram with byte fallback; its turn markers are added tokens that are not special."""
    tokenizer = Tokenizer.from_str(_unigram())
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("[INST]", "[/INST]")])
    _put_first(tokenizer, "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        chat_template=template or MISTRAL,
    )


def _gemma(template: str | None) -> PreTrainedTokenizerFast:
    """BPE over text with its spaces made visible, with byte fallback."""
    tokenizer = Tokenizer.from_str(_spaced_bpe())
    tokenizer.add_tokens([AddedToken("<unused0>", normalized=False)])
    _put_first(tokenizer, "<bos>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=template or GEMMA,
    )


@cache
def _byte_level(*specials: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return str(tokenizer.to_str())


@cache
def _unigram() -> str:
    source = Tokenizer(models.Unigram())
    source.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=220, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    source.train_from_iterator(TEXT, trainer)
    learned = sorted((i, text) for text, i in source.get_vocab().items() if text != "<unk>")
    vocabulary = [(text, 0.0) for text in ("<unk>", "<s>", "</s>")]
    # Far less likely than any learned piece, so that they are used for unknown characters alone.
    vocabulary += [(f"<0x{byte:02X}>", -1000.0) for byte in range(256)]
    vocabulary += [(text, -3.0 - rank / 50) for rank, (_, text) in enumerate(learned)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return str(tokenizer.to_str())


@cache
def _spaced_bpe() -> str:
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=controls + fallback, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    description = json.loads(tokenizer.to_str())
    # Training makes added tokens of the byte pieces, which they are in no tokenizer that people use.
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in controls]
    return json.dumps(description)


def _put_first(tokenizer: Tokenizer, bos: str) -> None:
    """Let the tokenizer put `bos` before plain text by itself."""
    ids = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=ids
    )
