# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""What make_golden and random_checkpoint share: weights, prompts, runs, checks, files."""

import dataclasses
import json
import math
import os
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from transformers import MiMoV2FlashConfig, MiMoV2FlashForCausalLM
from transformers.utils import logging

from oracle import load_weights, oracle

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)  # sums in one order
torch.set_grad_enabled(False)

ORACLE_TOLERANCE = 1e-5  # row error of the oracle against transformers
SENSITIVITY = 1e-2  # a mistake in one part of the model must move some row by more than this
MARGIN_F32 = 1e-3  # routing gap that f32 arithmetic in any order cannot cross
MARGIN_BF16 = 2e-2  # the same for bf16


# Weights ------------------------------------------------------------------------------------------


def random_tensor(seed, name, shape, window_tokens):
    """A function of the arguments alone, scaled so that sinks, bias and router all matter."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    noise = torch.randn(shape, generator=generator)
    if name.endswith(("norm.weight", "layernorm.weight")):
        return 1.0 + 0.2 * noise
    if name.endswith(("sinks", "attention_sink_bias")):  # comparable to a sum over the window
        return math.log(window_tokens) + 1.5 * noise
    if name.endswith("e_score_correction_bias"):
        return 0.25 * noise
    if name.endswith("embed_tokens.weight"):
        return noise
    gain = 1.0
    if name.endswith(("q_proj.weight", "k_proj.weight", "gate.weight")):
        gain = 1.5
    elif name.endswith(("down_proj.weight", "down_proj", "lm_head.weight")):
        gain = 2.0
    return noise * gain / math.sqrt(shape[-1])


# Prompts and checks -------------------------------------------------------------------------------


def row_error(got, want):
    """Per row max|got - want| / max|want|; both [..., rows, vocab]."""
    return (got.float() - want.float()).abs().amax(-1) / want.float().abs().amax(-1)


def choose_prompt(model, seed, tokens, margin):
    """Random ids; from left to right, a token routed within `margin` of a tie is drawn again."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/prompt".encode()))

    def draw():
        return torch.randint(model.config["vocab_size"], (1,), generator=generator)

    ids = torch.cat([draw() for _ in range(tokens)])
    for _ in range(20 * tokens):
        close = (model.forward(ids).margin < margin).nonzero()
        if len(close) == 0:
            return ids
        ids[close[0]] = draw()
    raise RuntimeError("no prompt without a near tie: change the seed")


def _edited(model, **changes):
    """The model with a changed geometry; a `layer` change is a function from layer to layer."""
    copy = oracle.__new__(oracle)
    copy.__dict__.update(model.__dict__)
    copy.weights = dict(model.weights)
    change = changes.pop("layer", lambda layer: layer)
    layers = tuple(change(layer) for layer in model.geometry.layers)
    copy.geometry = dataclasses.replace(model.geometry, layers=layers, **changes)
    return copy


def mistakes(model):
    """Name -> the model with one thing wrong: the mistakes that a fixture must be able to show."""
    replace = dataclasses.replace
    geometry = model.geometry
    theta = {layer.window_tokens is None: layer.rope_theta for layer in geometry.layers}

    def shifted(by):
        def change(layer):
            full = layer.window_tokens is None
            return layer if full else replace(layer, window_tokens=layer.window_tokens + by)

        return change

    def other_theta(layer):
        other = theta.get(layer.window_tokens is not None, layer.rope_theta)
        return replace(layer, rope_theta=other)

    def other_rotary(layer):
        return replace(layer, rotary_dim=(layer.rotary_dim + 1) // 2 - 1)

    wrong = {
        "sink dropped": _edited(model, layer=lambda layer: replace(layer, has_sink=False)),
        "window - 1": _edited(model, layer=shifted(-1)),
        "window + 1": _edited(model, layer=shifted(1)),
        "other rotary dim": _edited(model, layer=other_rotary),
    }
    if len(theta) == 2:
        wrong["theta of the other kind"] = _edited(model, layer=other_theta)
    if geometry.value_scale != 1.0:
        wrong["value scale dropped"] = _edited(model, value_scale=1.0)
    if any(layer.is_moe for layer in geometry.layers):
        wrong["weights renormalised or not"] = _edited(model, renormalise=not geometry.renormalise)
        wrong["bias dropped"] = _edited(model)
        for name, tensor in model.weights.items():
            if name.endswith("e_score_correction_bias"):
                wrong["bias dropped"].weights[name] = torch.zeros_like(tensor)
        if geometry.routed_scale != 1.0:
            wrong["routed scale dropped"] = _edited(model, routed_scale=1.0)
        if geometry.groups_per_token < geometry.groups:
            wrong["groups ignored"] = _edited(model, groups=1)
    return wrong


def mtp_mistakes(model, ids):
    """Name -> draft logits with one thing wrong in the MTP layers."""
    hidden = model.forward(ids).hidden
    replace = dataclasses.replace
    layer = model.geometry.mtp_layer
    window, full_theta = layer.window_tokens, model.geometry.layers[0].rope_theta

    def changed(**changes):
        return _edited(model, mtp_layer=replace(layer, **changes))

    swapped = _edited(model)
    for name, tensor in model.weights.items():
        if name.endswith("eh_proj.weight"):
            swapped.weights[name] = torch.cat(tensor.chunk(2, -1)[::-1], -1)
    wrong = {
        "eh_proj halves swapped": swapped,
        "MTP sink dropped": changed(has_sink=False),
        "MTP window - 1": changed(window_tokens=window - 1),
        "MTP window + 1": changed(window_tokens=window + 1),
        "MTP theta": changed(rope_theta=full_theta),
        "MTP value scale dropped": _edited(model, value_scale=1.0),
    }
    drafts = {what: other.mtp(ids, hidden) for what, other in wrong.items()}
    drafts["hidden after the final norm"] = model.mtp(ids, model._norm(hidden, "model.norm.weight"))
    drafts["hidden of the next row"] = model.mtp(ids, hidden.roll(-1, 0))
    drafts["token of this row"] = model.mtp(ids.roll(1), hidden)
    return drafts


def qkv_mistakes(directory, model):
    """Name -> the model with its fused projections read in a wrong way that the shapes allow."""
    wrong = {}
    if model.geometry.fused_qkv:
        try:
            other = _edited(model)
            other.weights = load_weights(
                directory, dataclasses.replace(model.geometry, qkv_shards=1)
            )
            wrong["read as one shard"] = other
        except AssertionError:
            pass  # the scale grids contradict it
    if "quantization_config" in model.config:
        other = _edited(model)
        other.weights = load_weights(directory, model.geometry, lambda scale: scale.flip(0, 1))
        wrong["scales in another order"] = other
    return wrong


def check_sensitive(name, logits, want):
    """Asserts that every mistake of {what: logits} moves them; returns a line on the least."""
    moved = {what: row_error(wrong, want).max().item() for what, wrong in logits.items()}
    for what, error in moved.items():
        assert error > SENSITIVITY, f"{name}: '{what}' moves the logits by {error:.1e} only"
    least = min(moved, key=moved.get)
    return f"least of {len(moved)} mistakes '{least}' moves {moved[least]:.2f}"


def check_oracle(name, model, ids, want):
    """Asserts that the oracle gives these f32 logits in f32 and (well conditioned) in f64."""
    for dtype in (torch.float32, torch.float64):
        error = row_error(model.forward(ids, dtype).logits, want).max().item()
        assert error <= ORACLE_TOLERANCE, f"{name}: the oracle in {dtype} is off by {error:.1e}"


# transformers -------------------------------------------------------------------------------------


def native_config(**keys):
    """A config for transformers; `rope` is {kind: (theta, partial_rotary_factor)}."""
    rope = keys.pop("rope")
    parameters = {
        kind + "_attention": {
            "rope_type": "default",
            "rope_theta": theta,
            "partial_rotary_factor": factor,
        }
        for kind, (theta, factor) in rope.items()
    }
    kinds = {"F": "full_attention", "S": "sliding_attention"}
    ffn = {"D": "dense", "M": "sparse"}
    keys["layer_types"] = [kinds[letter] for letter in keys.pop("attention")]
    keys["mlp_layer_types"] = [ffn[letter] for letter in keys.pop("ffn")]
    keys["num_hidden_layers"] = len(keys["layer_types"])
    keys.setdefault("max_position_embeddings", 1024)
    return MiMoV2FlashConfig(rope_parameters=parameters, bos_token_id=None, **keys)


def save_native(directory, seed, config, dtype, **save_options):
    """Writes a checkpoint with random weights through transformers' own save_pretrained."""
    config.dtype = dtype
    model = MiMoV2FlashForCausalLM(config)
    for name, parameter in model.named_parameters():
        value = random_tensor(seed, name, parameter.shape, config.sliding_window)
        parameter.data = value.to(dtype)
    for name, buffer in model.named_buffers():
        if name.endswith(
            "e_score_correction_bias"
        ):  # stays float32 in every checkpoint of the family
            buffer.copy_(random_tensor(seed, name, buffer.shape, config.sliding_window))
    model.save_pretrained(directory, **save_options)
    (directory / "generation_config.json").unlink(missing_ok=True)
    publish(directory)


def run_native(directory, ids, dtype):
    """Logits [T, vocab] of transformers' model read back from the directory, all eager."""
    model = MiMoV2FlashForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()(ids[None]).logits[0].float()


# Files --------------------------------------------------------------------------------------------


def save_golden(directory, source, ids, tensors):
    tensors = {
        "ids": ids.to(torch.int32),
        **{name: tensor.contiguous() for name, tensor in tensors.items()},
    }
    save_file(tensors, directory / "golden.safetensors", metadata={"source": source})
    publish(directory)


def publish(directory):
    """safetensors writes files that their owner alone can read."""
    for path in directory.iterdir():
        path.chmod(0o644)


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def size_bytes(directory):
    return sum(path.stat().st_size for path in directory.iterdir())


def finish_native(directory, seed, tokens, dtype):
    """Prompt, logits and checks for a checkpoint that transformers runs; returns a report."""
    model = oracle(directory)
    bf16 = dtype == torch.bfloat16
    ids = choose_prompt(model, seed, tokens, MARGIN_BF16 if bf16 else MARGIN_F32)
    logits = run_native(directory, ids, torch.float32)
    check_oracle(directory.name, model, ids, logits)
    wrong = {what: other.forward(ids).logits for what, other in mistakes(model).items()}
    note = check_sensitive(directory.name, wrong, logits)
    golden = {"logits": logits}
    if bf16:
        note += add_bf16(golden, run_native(directory, ids, dtype))
    save_golden(directory, "transformers mimo_v2_flash", ids, golden)
    return note


def finish_oracle(directory, seed, tokens, dtype):
    """As finish_native, where only the oracle can run; MTP layers give `mtp_logits`."""
    model = oracle(directory)
    bf16 = dtype == torch.bfloat16
    ids = choose_prompt(model, seed, tokens, MARGIN_BF16 if bf16 else MARGIN_F32)
    run = model.forward(ids)
    check_oracle(directory.name, model, ids, run.logits)
    wrong = {**mistakes(model), **qkv_mistakes(directory, model)}
    wrong = {what: other.forward(ids).logits for what, other in wrong.items()}
    note = check_sensitive(directory.name, wrong, run.logits)
    golden = {"logits": run.logits}
    if model.mtp_layers:
        golden["mtp_logits"] = model.mtp(ids, run.hidden)
        note += "; MTP: " + check_sensitive(
            directory.name, mtp_mistakes(model, ids), golden["mtp_logits"]
        )
    if bf16:
        note += add_bf16(golden, model.forward(ids, dtype).logits.float())
    save_golden(directory, "tests/golden/oracle.py", ids, golden)
    return note


def add_bf16(golden, logits):
    """Adds the logits of a bf16 run; returns the report of its error against f32."""
    golden["logits_f32"], golden["logits_framework_bf16"] = golden["logits"].clone(), logits
    error = row_error(logits, golden["logits"])
    assert error.max() < 0.1, f"a bf16 run is off by {error.max():.1e}: a routing choice changed"
    return f"; bf16 run off by {error.max():.1e} (mean {error.mean():.1e})"
