#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of tests/engine/tokenizer_golden_test.cpp with the `tokenizers` library.

    make_golden.py NANO_TOKENIZER_JSON      all of them
    make_golden.py --keep NANO_...          keep the three small tokenizers, renew the expected ids

gpt2.json, llama.json, odd.json: three small tokenizers, trained here on the strings of corpus.txt,
that between them use every key the engine supports. expected_*.txt: what `tokenizers` makes of the
strings of corpus.txt: a digest per hundred strings, and some ids in full.
"""

import argparse
import hashlib
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
import tokenizers

import strings
from strings import HERE

LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Possessive and lazy repeats, case, \w, look-ahead, an end of line: only a regex engine reads these.
ODD_PATTERNS = [
    r"\p{N}{1,3}",
    r"[^\r\n\p{L}\p{N}]?[A-Z]++(?i:'s|'t|'ll)?|[^\r\n\p{L}\p{N}]?[\p{L}\x{300}-\x{36f}]+"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*?[\r\n]+$|\s+(?!\S)|\s+",
    r"\w+?(?=_)|_",
]


def added(content, **flags):
    return AddedToken(content, **{"special": False, "normalized": True, **flags})


SPECIALS = [
    added("<|endoftext|>", special=True, normalized=False),
    added("<|im_start|>", special=True, normalized=False),
    added("<|im_end|>", special=True, normalized=False),
]
ODD_TOKENS = [
    added("<think>", special=False, normalized=False),
    added("[MASK]", special=True, lstrip=True, normalized=False),
    added("[mask]", special=True, lstrip=True, rstrip=True, normalized=True),
    added("LEFT", lstrip=True),
    added("RIGHT", rstrip=True, normalized=False),
    added("BOTH", lstrip=True, rstrip=True, single_word=True),
    added("word", single_word=True, normalized=False),
    added("Ärger", single_word=True),
    added("cafe\u0301"),  # decomposed: found as its NFC
    added("A\u0308rger", normalized=False),
    added("n\u01d4rm", normalized=False, single_word=True, special=True),
    added("two words", lstrip=True),
    added("  lead", normalized=False),
    added("aa"),
    added("aaa", single_word=True),
    added("\t", rstrip=True, normalized=False),
    added("\u3000", normalized=False),
    added("x", single_word=True, normalized=False),
]


def training_text():
    for index, group in enumerate(strings.read_groups()):
        if group[0] in ("code", "prose", "scripts", "letters_as_words", "spaces"):
            yield from list(strings.strings_of(group, index))[:800]


def train(normalizer, pre_tokenizer, alphabet, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save(tokenizer, name, **model_keys):
    content = json.loads(tokenizer.to_str())
    content["model"].update(model_keys)
    if name != "llama":  # The older way to write a merge.
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (HERE / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n",
                                       encoding="utf-8")


def make_tokenizers():
    full = sorted(pre_tokenizers.ByteLevel.alphabet())
    gpt2 = train(normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=True), full, 700)
    gpt2.add_tokens(SPECIALS + ODD_TOKENS)
    gpt2.post_processor = processors.ByteLevel()
    save(gpt2, "gpt2")

    split = pre_tokenizers.Split(Regex(LLAMA_PATTERN), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    llama = train(None, pre_tokenizers.Sequence([split, level]), full, 600)
    llama.add_tokens(SPECIALS + ODD_TOKENS[::-1])
    bos = processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>",
        special_tokens=[(t, llama.token_to_id(t)) for t in ("<|endoftext|>", "<|im_end|>")],
    )
    llama.post_processor = processors.Sequence([processors.ByteLevel(), bos])
    save(llama, "llama", ignore_merges=True)

    # An alphabet with holes: what is missing becomes the unknown token, in a row only one.
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in ODD_PATTERNS]
    holes = [c for c in full if c not in "qQ7Ã¤"]
    odd = train(normalizers.Sequence([normalizers.NFC()]), pre_tokenizers.Sequence([*splits, level]), holes, 500)
    odd.add_tokens(ODD_TOKENS + SPECIALS)
    unknown = min(odd.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])[0]
    save(odd, "odd", unk_token=unknown, fuse_unk=True)


def expected(path, name):
    tokenizer = Tokenizer.from_file(str(path))
    lines = [
        f"# Made by make_golden.py with tokenizers {tokenizers.__version__}.",
        f"tokenizer {hashlib.sha256(path.read_bytes()).hexdigest()}",
    ]
    for index, group in enumerate(strings.read_groups()):
        encoded = [e.ids for e in tokenizer.encode_batch(list(strings.strings_of(group, index)))]
        lines.append(f"group {group[0]} {len(encoded)}")
        for at in range(0, len(encoded), strings.STRINGS_PER_BLOCK):
            lines.append(f"digest {strings.digest(encoded[at : at + strings.STRINGS_PER_BLOCK]):016x}")
        for at in range(0, 10):
            lines.append("ids " + " ".join(map(str, encoded[at])))
    (HERE / f"expected_{name}.txt").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("nano", type=strings.pathlib.Path)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if not args.keep:
        make_tokenizers()
    expected(args.nano, "nano")
    for name in ("gpt2", "llama", "odd"):
        expected(HERE / f"{name}.json", name)


if __name__ == "__main__":
    main()
