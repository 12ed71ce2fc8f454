# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Measures the exported checkpoint (bf16 weights, f32 arithmetic) on the held-out files; writes JSON to stdout."""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

import checkpoint
import corpus
from model import NanoModel
from sample import generate
from train import CHUNK, held_out_rows


@torch.no_grad()
def predictions(model: NanoModel, rows: Tensor) -> tuple[Tensor, list[Tensor], list[float]]:
    """rows [batch, time + heads + 1] -> the main model's argmax and each head's at every row below `time`
    [batch, time], and the mean losses [main, head 0, ...]. Entry p of head s is its guess of token p + 2 + s."""
    heads = model.shape.mtp_layers
    time_steps = rows.shape[1] - heads - 1
    hidden = model.hidden(rows[:, : time_steps + heads])
    logits = model.logits(hidden)
    value = F.cross_entropy(logits[:, :time_steps].flatten(0, 1), rows[:, 1 : time_steps + 1].flatten())
    means, drafts = [float(value)], []
    for s in range(heads):
        guess = model.mtp_logits(s, hidden[:, :time_steps], rows[:, 1 + s : time_steps + 1 + s])
        value = F.cross_entropy(guess.flatten(0, 1), rows[:, 2 + s : time_steps + 2 + s].flatten())
        means.append(float(value))
        drafts.append(guess.argmax(-1))
    return logits.argmax(-1), drafts, means


def held_out_figures(model: NanoModel, rows: Tensor, bytes_per_token: float) -> dict:
    heads = model.shape.mtp_layers
    means, with_main, with_text, main_right = torch.zeros(1 + heads), torch.zeros(heads), torch.zeros(heads), 0.0
    for row in rows:
        own, drafts, values = predictions(model, row[None])
        time_steps = drafts[0].shape[1]
        means += torch.tensor(values) / len(rows)
        main_right += float((own[:, :time_steps] == row[None, 1 : time_steps + 1]).float().mean()) / len(rows)
        for s, draft in enumerate(drafts):
            same = draft == own[:, 1 + s : time_steps + 1 + s]
            with_main[s] += float(same.float().mean()) / len(rows)
            with_text[s] += float((draft == row[None, 2 + s : time_steps + 2 + s]).float().mean()) / len(rows)
    loads = [layer.load / layer.load.sum() for layer in model.moe_layers()]
    rounded = lambda t: [round(float(v), 4) for v in t]
    return {
        "tokens": rows.shape[0] * CHUNK,
        "loss_nats_per_token": round(float(means[0]), 4),
        "bits_per_byte": round(float(means[0]) / math.log(2) / bytes_per_token, 4),
        "top1_main_with_text": round(main_right, 4),
        "loss_mtp": rounded(means[1:]),
        "top1_mtp_with_main_model": rounded(with_main),
        "top1_mtp_with_text": rounded(with_text),
        "expert_load_smallest": rounded(load.min() for load in loads),
        "expert_load_largest": rounded(load.max() for load in loads),
    }


def accepted_per_step(model: NanoModel, rows: Tensor, prompt: int, count: int) -> float:
    """Tokens a verify step yields when the heads draft for greedy decoding: 1 + the accepted drafts."""
    text = generate(model, rows[:, :prompt], count, 0.0, torch.Generator())
    own, drafts, _ = predictions(model, text)
    tokens = steps = 0
    for b in range(len(text)):
        row = prompt - 1
        while row < drafts[0].shape[1]:
            accepted = 0
            while accepted < len(drafts) and drafts[accepted][b, row] == own[b, row + 1 + accepted]:
                accepted += 1
            row, tokens, steps = row + 1 + accepted, tokens + 1 + accepted, steps + 1
    return tokens / steps


def main() -> None:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", type=Path, default=folder, help="folder of the checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _, held_out = corpus.split_files()
    model = checkpoint.load(options.m)
    size = sum(len(t.encode()) for _, t in held_out)
    count = sum(len(e.ids) for e in tokenizer.encode_batch([t for _, t in held_out]))
    rows = held_out_rows(tokenizer, held_out, model.shape.mtp_layers + 1)
    figures = held_out_figures(model, rows, size / count)
    figures["tokens_per_greedy_verify_step"] = round(accepted_per_step(model, rows[::8], 128, 64), 3)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
