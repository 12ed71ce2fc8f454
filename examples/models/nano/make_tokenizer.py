# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the nano model's byte-level BPE on the training files and writes tokenizer.json and tokenizer_config.json."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus

VOCABULARY = 4096
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(corpus.SPECIAL_TOKENS),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    # Added after training, so that their ids are the last ones.
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in corpus.SPECIAL_TOKENS]
    )
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def main() -> None:
    folder = Path(__file__).parent
    training, held_out = corpus.split_files()
    tokenizer = train_tokenizer([text for _, text in training])
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(tokenizer.token_to_id(t)): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
        }
        for t in corpus.SPECIAL_TOKENS
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [corpus.TURN_START, corpus.TURN_END],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": corpus.END_OF_TEXT,
        "model_max_length": 4096,
        "pad_token": corpus.END_OF_TEXT,
        "unk_token": None,
    }, indent=2) + "\n")
    for name, files in (("training", training), ("held-out", held_out)):
        size = sum(len(t.encode()) for _, t in files)
        count = sum(len(tokenizer.encode(t).ids) for _, t in files)
        print(f"{name}: {len(files)} files, {size} bytes, {count} tokens, {size / count:.3f} bytes per token, "
              f"sha256 {corpus.fingerprint(files)}")


if __name__ == "__main__":
    main()
