# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the nano model on one CPU core: next token and three MTP heads, jointly.

The rate is held, then falls to zero over the last 65 % of `--steps`; nothing before the fall depends on `--steps`, so a
run may be stopped, measured and resumed with another number of them. Data, weights and order follow from `--seed`.
"""

import argparse
import math
import signal
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

import checkpoint
import corpus
from model import NanoModel, Shape
from muon import Muon

CHUNK = 1024  # tokens of one piece of the stream; a step takes several, whole or halved
CHUNKS_PER_STEP = 4
CONVERSATIONS_ONE_IN = 3
MTP_WEIGHTS = (0.12, 0.1, 0.08)
FALL_FRACTION = 0.65
BALANCE_RATE = 1e-3
EMA_DECAY = 0.98


class TokenStream:
    """Training text as one row of tokens, its documents in a new order each epoch, read in shuffled chunks."""

    def __init__(self, tokenizer: Tokenizer, files: list[tuple[str, str]], seed: int):
        texts = [text + corpus.END_OF_TEXT for _, text in files]
        exchanges = [c for _, text in files for c in corpus.conversations(text)]
        texts += exchanges[::CONVERSATIONS_ONE_IN]
        self.documents = [torch.tensor(e.ids) for e in tokenizer.encode_batch(texts)]
        self.seed, self.epoch = seed, -1
        self.chunks = (sum(map(len, self.documents)) - CHUNK - 8) // CHUNK

    def _open_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.documents), generator=generator).tolist()
        self.stream = torch.cat([self.documents[i] for i in order])
        self.offset = int(torch.randint(CHUNK, (1,), generator=generator))
        self.order = torch.randperm(self.chunks, generator=generator)
        self.epoch = epoch

    def chunk(self, number: int, length: int, ahead: int) -> Tensor:
        """Chunk `number` of the whole run as [CHUNK / length, length + ahead] tokens; rows overlap by `ahead`."""
        epoch, index = divmod(number, self.chunks)
        if epoch != self.epoch:
            self._open_epoch(epoch)
        start = self.offset + int(self.order[index]) * CHUNK
        return self.stream[start : start + CHUNK + ahead].unfold(0, length + ahead, length)

    def batch(self, step: int, length: int, ahead: int) -> Tensor:
        first = step * CHUNKS_PER_STEP
        return torch.cat([self.chunk(n, length, ahead) for n in range(first, first + CHUNKS_PER_STEP)])


def losses(model: NanoModel, rows: Tensor, mtp_rows: int) -> tuple[Tensor, list[Tensor]]:
    """Next-token loss over all rows, and each MTP head's over the first `mtp_rows`."""
    heads = model.shape.mtp_layers
    time_steps = rows.shape[1] - heads - 1
    hidden = model.hidden(rows[:, :time_steps])
    main = F.cross_entropy(model.logits(hidden).flatten(0, 1), rows[:, 1 : time_steps + 1].flatten())
    drafts = []
    for s in range(heads if mtp_rows else 0):
        given = rows[:mtp_rows, 1 + s : time_steps + 1 + s]
        target = rows[:mtp_rows, 2 + s : time_steps + 2 + s]
        logits = model.mtp_logits(s, hidden[:mtp_rows], given)
        drafts.append(F.cross_entropy(logits.flatten(0, 1), target.flatten()))
    return main, drafts


@torch.no_grad()
def held_out_losses(model: NanoModel, rows: Tensor) -> list[float]:
    """[next token, head 0, head 1, head 2] in nats per token, over rows [count, CHUNK + ahead]."""
    sums = [0.0] * (1 + model.shape.mtp_layers)
    for part in rows.split(4):
        main, drafts = losses(model, part, len(part))
        sums = [s + float(v) * len(part) for s, v in zip(sums, [main, *drafts])]
    for layer in model.moe_layers():
        layer.load.zero_()
    return [s / len(rows) for s in sums]


class Trainer:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        torch.manual_seed(options.seed)
        self.shape = Shape()
        self.model = NanoModel(self.shape)
        self.ema = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        named = dict(self.model.named_parameters())
        orthogonal = [n for n, p in named.items()
                      if p.ndim >= 2 and not n.endswith(("embed_tokens.weight", "lm_head.weight", "gate.weight"))]
        self.muon = Muon([named[n] for n in orthogonal], weight_decay=options.weight_decay)
        groups = [{"params": [p for n, p in named.items() if n not in orthogonal and match(n)], "base": rate}
                  for match, rate in (
                      (lambda n: "embed_tokens" in n, options.embedding_rate),
                      (lambda n: "lm_head" in n, options.head_rate),
                      (lambda n: "embed_tokens" not in n and "lm_head" not in n, options.scalar_rate))]
        self.adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=True)
        self.step = 0
        self.seconds = 0.0

    def rate_factor(self) -> float:
        warm = min(1.0, (self.step + 1) / 40)
        left = 1 - self.step / self.options.steps
        return warm * min(1.0, left / FALL_FRACTION)

    def train_step(self, stream: TokenStream) -> list[float]:
        falling = self.step >= self.options.steps * (1 - FALL_FRACTION)
        length = CHUNK if falling and self.step % 4 == 0 else CHUNK // 2
        rows = stream.batch(self.step, length, self.shape.mtp_layers + 1)
        mtp_rows = len(rows) * (3 if falling else 2) // 8
        main, drafts = losses(self.model, rows, mtp_rows)
        (main + sum(w * d for w, d in zip(MTP_WEIGHTS, drafts))).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = self.rate_factor()
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * factor
        self.adam.step()
        self.muon.step(self.options.matrix_rate * factor)
        self.model.zero_grad(set_to_none=True)
        for layer in self.model.moe_layers():
            layer.balance(BALANCE_RATE * factor)
        current = self.model.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [current[n] for n in self.ema], 1 - EMA_DECAY)
        self.step += 1
        return [float(v.detach()) for v in (main, *drafts)]

    def save_state(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save({"model": self.model.state_dict(), "ema": self.ema, "adam": self.adam.state_dict(),
                    "muon": self.muon.state_dict(), "step": self.step, "seconds": self.seconds}, partial)
        partial.replace(path)

    def load_state(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
        self.step, self.seconds = state["step"], state["seconds"]

    def averaged_model(self) -> NanoModel:
        model = NanoModel(self.shape)
        model.load_state_dict(self.ema)
        return model.eval()


def held_out_rows(tokenizer: Tokenizer, files: list[tuple[str, str]], ahead: int) -> Tensor:
    """Whole chunks of the held-out stream, [count, CHUNK + ahead]."""
    ids = [i for e in tokenizer.encode_batch([t + corpus.END_OF_TEXT for _, t in files]) for i in e.ids]
    return torch.tensor(ids).unfold(0, CHUNK + ahead, CHUNK)


def parse_options() -> argparse.Namespace:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps after which the rate is zero")
    parser.add_argument("--until", type=int, help="stop after this step; run again to resume")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; run again to resume")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, default=Path("build/nano/state.pt"), help="resumed if there, saved often")
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--report-steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=folder, help="folder of the exported checkpoint")
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--embedding-rate", type=float, default=0.02)
    parser.add_argument("--head-rate", type=float, default=0.004)
    parser.add_argument("--scalar-rate", type=float, default=0.004)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    return parser.parse_args()


def run(trainer: Trainer, stream: TokenStream, check: Tensor) -> None:
    """Trains until the steps or the minutes are over or SIGTERM comes; saves on the way."""
    options = trainer.options
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    begin = saved = time.monotonic()
    base, report = trainer.seconds, []
    last = min(options.steps, options.until or options.steps)
    while trainer.step < last and time.monotonic() - begin < options.minutes * 60 and not stopped:
        report.append(trainer.train_step(stream))
        now = time.monotonic()
        trainer.seconds = base + now - begin
        if trainer.step % options.report_steps == 0:
            means = " ".join(f"{sum(c) / len(c):.4f}" for c in zip(*report))
            print(f"step {trainer.step} seconds {trainer.seconds:.0f} training {means}", flush=True)
            report = []
        if trainer.step % (10 * options.report_steps) == 0:
            values = " ".join(f"{v:.4f}" for v in held_out_losses(trainer.averaged_model(), check))
            print(f"step {trainer.step} epoch {stream.epoch} held-out sample {values}", flush=True)
        if now - saved > options.save_minutes * 60:
            trainer.save_state(options.state)
            saved = now
    trainer.save_state(options.state)


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))
    training, held_out = corpus.split_files()
    trainer = Trainer(options)
    stream = TokenStream(tokenizer, training, options.seed)
    rows = held_out_rows(tokenizer, held_out, trainer.shape.mtp_layers + 1)
    if options.state.exists():
        trainer.load_state(options.state)
    print(f"{sum(p.numel() for p in trainer.model.parameters())} parameters, "
          f"{stream.chunks * CHUNK} tokens an epoch, {trainer.step} of {options.steps} steps done", flush=True)
    run(trainer, stream, rows[::4])
    checkpoint.save(trainer.ema, trainer.shape, options.out)
    print(f"step {trainer.step}: wrote {options.out}")


if __name__ == "__main__":
    main()
