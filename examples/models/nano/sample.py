# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Continues a prompt with the exported nano model, recomputing everything for each token: slow, and easy to trust."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

import checkpoint
from model import NanoModel


@torch.no_grad()
def generate(model: NanoModel, prompts: Tensor, count: int, temperature: float, generator: torch.Generator) -> Tensor:
    """prompts [batch, time] of equal lengths -> [batch, time + count]; temperature 0 takes the most likely token."""
    tokens = prompts
    for _ in range(count):
        logits = model.logits(model.hidden(tokens)[:, -1:])[:, 0]
        if temperature == 0:
            following = logits.argmax(-1, keepdim=True)
        else:
            following = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, following], dim=1)
    return tokens


def main() -> None:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", type=Path, default=folder, help="folder of the checkpoint")
    parser.add_argument("-p", default="def main():\n", help="prompt")
    parser.add_argument("-n", type=int, default=96, help="tokens to write")
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's turn")
    parser.add_argument("--ids", action="store_true", help="print token ids too")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = options.p
    if options.chat:
        prompt = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(prompt).ids
    generator = torch.Generator().manual_seed(options.seed)
    out = generate(checkpoint.load(options.m), torch.tensor([ids]), options.n, options.temp, generator)[0].tolist()
    written = out[len(ids):]
    ends = [i for i, t in enumerate(written) if t in (checkpoint.END_OF_TEXT_ID, checkpoint.TURN_END_ID)]
    written = written[: ends[0]] if ends else written
    print(options.p + tokenizer.decode(written, skip_special_tokens=False))
    if options.ids:
        print(written)


if __name__ == "__main__":
    main()
