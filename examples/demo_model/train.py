"""Train the demo model: a tokenizer, then a Llama of about 3.3 million parameters, on text files, for a given time.

python -m examples.demo_model.train --text FILE... --minutes N --out DIR --seed S

A stop loses at most a few minutes: the folder holds a usable model after every checkpoint, and the same command goes on
from the last one. With a larger --minutes it goes on longer, at the learning rate a longer run has at that point.
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.demo_model.muon import Muon
from examples.demo_model.samples import batches, chat_stream, plain_stream, split_chapters
from examples.demo_model.tokenizer import BOS, EOS, PAD, train_tokenizer, wrap_tokenizer

VOCAB_SIZE = 2048
MAX_LENGTH_TOKENS = 2048
STEP_TOKENS = 2048
# Length of a row from the given share of the time on. Short rows train faster; the last ones teach long prompts.
LENGTHS_TOKENS = ((0.0, 128), (0.4, 256), (0.65, 512), (0.85, 1024), (0.94, 2048))
# Of Muon for the matrices, and of AdamW for the embedding and the gains; both follow one schedule.
PEAK_LEARNING_RATES = (0.02, 3e-3)
WARMUP_STEPS = 30
REPORT_S = 20.0
CHECKPOINT_S = 180.0


@dataclass
class Progress:
    """How far the training is.

    `spent_s` is processor time per thread, in training alone: a busy machine makes a training longer, but not worse.
    """

    step: int = 0
    spent_s: float = 0.0


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


def schedule_at(step: int, share: float) -> float:
    """Factor of the peak learning rates: linear warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def processor_s() -> float:
    """Processor time spent by this process, in seconds per thread that torch computes with."""
    return time.process_time() / torch.get_num_threads()


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
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # it is written for its owner alone, and a server may be somebody else
    # The template goes into tokenizer_config.json: a server that reads no separate template file then finds it too.
    wrap_tokenizer(tokenizer, MAX_LENGTH_TOKENS).save_pretrained(out, save_jinja_files=False)


def optimizers_for(model: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices between embedding and logits, AdamW for the rest, in the order of PEAK_LEARNING_RATES."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return (
        Muon(matrices, lr=PEAK_LEARNING_RATES[0]),
        torch.optim.AdamW(rest, lr=PEAK_LEARNING_RATES[1], betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def save_checkpoint(path: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer], progress: Progress) -> None:
    """Write what a later run goes on from; a stop halfway leaves the previous one whole."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers], "progress": vars(progress)}
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Take up a training where the checkpoint left it."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def take_step(model: Any, optimizers: Sequence[torch.optim.Optimizer], window: torch.Tensor, factor: float) -> float:
    """Train on one batch; return its loss in nats per token."""
    loss = loss_of(model, window)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in zip(optimizers, PEAK_LEARNING_RATES, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(texts: list[str], minutes: float, out: Path, seed: int) -> None:
    """Train until `minutes` of processor time are spent, earlier runs with the same `out` included."""
    torch.manual_seed(seed)
    training, held_out = split_chapters(texts)
    tokenizer = train_tokenizer(training, VOCAB_SIZE)
    model = build_model(tokenizer)
    optimizers = optimizers_for(model)
    checkpoint = out.with_name(out.name + ".checkpoint")
    progress = load_checkpoint(checkpoint, model, optimizers) if checkpoint.exists() else Progress()
    rng = random.Random(f"{seed} {progress.step}")
    plain, judged = plain_stream(training, tokenizer), plain_stream(held_out, tokenizer)
    chat = chat_stream(training, tokenizer, len(plain), rng)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(plain):,} tokens of text, {len(judged):,} held out, step {progress.step}", flush=True)

    feed: Iterator[torch.Tensor] | None = None
    length, smooth_loss = 0, math.nan
    reported, saved_s = (progress.step, progress.spent_s), progress.spent_s
    while (share := progress.spent_s / (60 * minutes)) < 1:
        if feed is None or length != length_at(share):
            length = length_at(share)
            feed = batches(plain, chat, STEP_TOKENS // length, length, model.config.bos_token_id, rng)
        started_s = processor_s()
        loss = take_step(model, optimizers, next(feed), schedule_at(progress.step, share))
        progress = Progress(progress.step + 1, progress.spent_s + processor_s() - started_s)
        smooth_loss = loss if math.isnan(smooth_loss) else 0.95 * smooth_loss + 0.05 * loss
        if progress.spent_s - reported[1] >= REPORT_S:
            rate = STEP_TOKENS * (progress.step - reported[0]) / (progress.spent_s - reported[1])
            left = minutes - progress.spent_s / 60
            print(f"step {progress.step}  loss {smooth_loss:.3f}  {rate:.0f} tokens/s  rows of {length}  {left:.1f} min left", flush=True)
            reported = (progress.step, progress.spent_s)
        if progress.spent_s - saved_s >= CHECKPOINT_S or progress.spent_s >= 60 * minutes:
            export(model, tokenizer, out)
            save_checkpoint(checkpoint, model, optimizers, progress)
            print(f"step {progress.step}  saved  held-out loss {held_out_loss(model, judged):.3f}", flush=True)
            saved_s = progress.spent_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 files, chapters separated by form feeds")
    parser.add_argument("--minutes", type=float, required=True, help="processor minutes in all, earlier runs with the same --out included")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train([file.read_text(encoding="utf-8") for file in options.text], options.minutes, options.out, options.seed)


if __name__ == "__main__":
    main()
