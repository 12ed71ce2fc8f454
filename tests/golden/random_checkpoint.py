# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Writes one more golden fixture, of a random legal shape, by transformers: material for fuzzing.

    python random_checkpoint.py --seed N DIR

The same requirements, files and checks as make_golden.py. Not run in CI. DIR must not exist. A seed
whose model does not notice some mistake, or whose prompt cannot avoid routing ties, fails with a
message: take another.
"""

import argparse
import pathlib
import random

import torch

from golden_tools import finish_native, native_config, save_native, size_bytes


def random_shape(draw):
    """Keys of golden_tools.native_config."""
    layers = draw.randint(2, 5)
    attention = [draw.choice("FS") for _ in range(layers)]
    attention[draw.randrange(layers)] = "S"
    kv_heads = draw.choice((1, 2, 3, 4))
    group = draw.choice((2, 4, 6, 8, 16))  # of full attention; half of it in window layers
    qk_dim = draw.randint(6, 32)
    theta = (draw.choice((1e4, 1e5, 5e6, 1e7)), draw.choice((100.0, 1e3, 1e4)))
    factor = [draw.choice((0.25, 0.334, 0.5, 0.75, 1.0, draw.uniform(0.2, 1.0))) for _ in range(2)]
    factor = [max(value, 2.01 / qk_dim) for value in factor]  # one pair at least
    factor = [value if int(qk_dim * value) < qk_dim or qk_dim % 2 == 0 else 0.5 for value in factor]
    keys = {
        "attention": "".join(attention),
        "ffn": "D" + "".join(draw.choice("DMM") for _ in range(layers - 1)),
        "sliding_window": draw.choice((4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 127, 128)),
        "hidden_size": draw.choice((16, 24, 30, 32, 40, 48, 64)),
        "vocab_size": draw.randint(40, 130),
        "intermediate_size": draw.randint(16, 80),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": qk_dim,
        "v_head_dim": draw.randint(4, 32),
        "attention_value_scale": draw.choice((0.707, 0.612, 1.0, None)),
        "rms_norm_eps": draw.choice((1e-5, 1e-6)),
        "rope": {"full": (theta[0], factor[0]), "sliding": (theta[1], factor[1])},
    }
    groups = draw.choice((1, 1, 2, 4))
    experts = groups * draw.randint(3, 6)
    kept = draw.randint(1, groups)
    keys |= {
        "n_group": groups,
        "topk_group": kept,
        "n_routed_experts": experts,
        "num_experts_per_tok": draw.randint(1, min(4, kept * experts // groups - 1)),
        "moe_intermediate_size": draw.randint(8, 40),
        "norm_topk_prob": draw.random() < 0.7,
        "routed_scaling_factor": draw.choice((1.0, 1.0, 1.5, 2.5)),
    }
    return keys


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("directory", type=pathlib.Path)
    arguments = parser.parse_args()

    draw = random.Random(arguments.seed)
    keys = random_shape(draw)
    dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16))
    options = draw.choice(({}, {}, {"save_original_format": False}, {"max_shard_size": "60KB"}))
    tokens = 3 * keys["sliding_window"] + draw.randint(1, 16)
    print(f"seed {arguments.seed}: {keys}, {dtype}, {options}, {tokens} tokens")

    arguments.directory.mkdir(parents=True)
    save_native(arguments.directory, arguments.seed, native_config(**keys), dtype, **options)
    note = finish_native(arguments.directory, arguments.seed, tokens, dtype)
    print(f"{arguments.directory}: {size_bytes(arguments.directory) / 1024:.0f} KiB, {note}")


if __name__ == "__main__":
    main()
