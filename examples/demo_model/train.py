"""Train the demo model: a tokenizer, then a Llama of about 3.5 million parameters, on text files, for a given time.

python -m examples.demo_model.train --text FILE... --minutes N --out DIR --seed S

A stop loses at most a few minutes: the folder holds a usable model after every checkpoint, and the same command goes on
from the last one. With a larger --minutes it goes on longer, at the learning rate a longer run has at that point.
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.demo_model.samples import batches, chat_stream, plain_stream, split_chapters
from examples.demo_model.tokenizer import BOS, EOS, PAD, train_tokenizer, wrap_tokenizer

VOCAB_SIZE = 2048
MAX_LENGTH_TOKENS = 2048
STEP_TOKENS = 2048
# Length of a row from the given share of the time on. Short rows train faster; the last ones teach long prompts.
LENGTHS_TOKENS = ((0.0, 128), (0.4, 256), (0.65, 512), (0.85, 1024), (0.94, 2048))
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
REPORT_S = 20.0
CHECKPOINT_S = 180.0


@dataclass
class Progress:
    """How far the training is; only training itself counts, not encoding, evaluation or time between runs."""

    step: int = 0
    elapsed_s: float = 0.0
    trained_tokens: int = 0


def build_model(tokenizer: Tokenizer) -> Any:
    """Make an untrained model in float32."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return LlamaForCausalLM(config)


def length_at(share: float) -> int:
    """Length of a row, in tokens, when `share` of the time is spent."""
    return [length for start, length in LENGTHS_TOKENS if share >= start][-1]


def learning_rate_at(step: int, share: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    return PEAK_LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def loss_of(model: Any, window: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss, in nats per token."""
    logits = model(input_ids=window[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Any, stream: torch.Tensor, length_tokens: int = 512) -> float:
    """Mean loss over a stream cut into rows, in nats per token."""
    count = (len(stream) - 1) // length_tokens
    rows = [stream[i * length_tokens : (i + 1) * length_tokens + 1] for i in range(count)]
    return sum(float(loss_of(model, row[None])) for row in rows) / count


def export(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write the model as others load it: bfloat16 safetensors, configurations, tokenizer and chat template."""
    out.mkdir(parents=True, exist_ok=True)
    config = model.config
    half = LlamaForCausalLM(config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    half.save_pretrained(out)
    # The template goes into tokenizer_config.json: a server that reads no separate template file then finds it too.
    wrap_tokenizer(tokenizer, MAX_LENGTH_TOKENS).save_pretrained(out, save_jinja_files=False)


def optimizer_for(model: Any) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: decaying a norm's gain would pull it to zero."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), fused=True)


def save_checkpoint(path: Path, model: Any, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write what a later run goes on from; a stop halfway leaves the previous one whole."""
    partial = path.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}, partial)
    os.replace(partial, path)


def train(texts: list[str], minutes: float, out: Path, seed: int) -> None:
    """Train until `minutes` of training are spent, earlier runs with the same `out` included."""
    torch.manual_seed(seed)
    training, held_out = split_chapters(texts)
    tokenizer = train_tokenizer(training, VOCAB_SIZE)
    model = build_model(tokenizer)
    optimizer = optimizer_for(model)
    progress = Progress()
    checkpoint = out.with_name(out.name + ".checkpoint")
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    rng = random.Random(f"{seed} {progress.step}")
    plain, judged = plain_stream(training, tokenizer), plain_stream(held_out, tokenizer)
    chat = chat_stream(training, tokenizer, len(plain), rng)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(plain):,} tokens of text, {len(judged):,} held out, step {progress.step}", flush=True)

    feed: Iterator[torch.Tensor] | None = None
    length, smooth, since_report_s, since_save_s, reported_tokens = 0, float("nan"), 0.0, 0.0, progress.trained_tokens
    while (share := progress.elapsed_s / (60 * minutes)) < 1:
        if feed is None or length != length_at(share):
            length = length_at(share)
            feed = batches(plain, chat, STEP_TOKENS // length, length, model.config.bos_token_id, rng)
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(progress.step, share)
        loss = loss_of(model, next(feed))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        spent_s = time.monotonic() - started
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        progress = Progress(progress.step + 1, progress.elapsed_s + spent_s, progress.trained_tokens + STEP_TOKENS)
        since_report_s += spent_s
        since_save_s += spent_s
        if since_report_s >= REPORT_S:
            rate = (progress.trained_tokens - reported_tokens) / since_report_s
            left = minutes - progress.elapsed_s / 60
            print(f"step {progress.step}  loss {smooth:.3f}  {rate:.0f} tokens/s  rows of {length}  {left:.1f} min left", flush=True)
            since_report_s, reported_tokens = 0.0, progress.trained_tokens
        if since_save_s >= CHECKPOINT_S or progress.elapsed_s >= 60 * minutes:
            export(model, tokenizer, out)
            save_checkpoint(checkpoint, model, optimizer, progress)
            print(f"step {progress.step}  saved  held-out loss {held_out_loss(model, judged):.3f}", flush=True)
            since_save_s = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 files, chapters separated by form feeds")
    parser.add_argument("--minutes", type=float, required=True, help="training time in all, earlier runs into the same folder included")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train([file.read_text(encoding="utf-8") for file in options.text], options.minutes, options.out, options.seed)


if __name__ == "__main__":
    main()
