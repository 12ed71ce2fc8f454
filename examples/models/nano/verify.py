# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Loads the exported files with transformers' own MiMoV2FlashForCausalLM and compares logits with model.py (f32)."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import checkpoint
import corpus


@torch.no_grad()
def main() -> None:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", type=Path, default=folder, help="folder of the checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = checkpoint.load(options.m)
    theirs = AutoModelForCausalLM.from_pretrained(options.m, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    worst = 0.0
    for _, text in corpus.split_files()[1][:6]:
        ids = torch.tensor([tokenizer.encode(text).ids[:300]])
        expected = theirs(ids).logits
        error = (ours.logits(ours.hidden(ids)) - expected).abs().amax(-1) / expected.abs().amax(-1)
        worst = max(worst, float(error.max()))
    print(f"{type(theirs).__name__}: largest error of a row, max|a-b| / max|b| = {worst:.2e}")
    assert worst <= 1e-4


if __name__ == "__main__":
    main()
