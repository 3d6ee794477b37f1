"""The stored demo model: it loads as anybody would load it, and it has learnt the language it was trained on."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
MAX_WEIGHTS_BYTES = 8_000_000

# "Pride and Prejudice", chapter 38: one of the chapters that samples.py holds out of the training and the tokenizer.
HELD_OUT = (
    '"I know not, Miss Elizabeth," said he, "whether Mrs. Collins has yet expressed her sense of your kindness in coming to us; but '
    "I am very certain you will not leave the house without receiving her thanks for it. The favour of your company has been much "
    "felt, I assure you. We know how little there is to tempt anyone to our humble abode. Our plain manner of living, our small "
    "rooms and few domestics, and the little we see of the world, must make Hunsford extremely dull to a young lady like yourself; "
    "but I hope you will believe us grateful for the condescension, and that we have done everything in our power to prevent your "
    'spending your time unpleasantly."'
)

# Common words of English prose: about half of any page consists of them, and of word fragments next to nothing does.
COMMON_WORDS = """
    a about after again all am an and any are as at be been before but by can come could day did do down every first for from good
    great had has have he her here him himself his how i if in into is it its know like little made man many may me might more most
    much must my never no not now of old on one only or other our out own said say see she should so some such than that the their
    them then there these they this those thought time to too two up upon very was way we well were what when which while who will
    with without would you your
"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits that predict ids[1:], shape (len(ids) - 1, vocabulary)."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits


def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probability, in nats, of each of ids[1:]."""
    return logits_of(model, ids).log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_weights_are_small_and_bfloat16() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.safetensors")) <= MAX_WEIGHTS_BYTES
    assert AutoModelForCausalLM.from_pretrained(WEIGHTS).dtype == torch.bfloat16


def test_tokenizer_keeps_any_text(tokenizer: Any) -> None:
    text = "It is a truth, naïve — 漢字 🐋\n\tindeed."
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_chat_template_joins_turns_by_markers_alone(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": " Tell me about the whale. "},
        {"role": "assistant", "content": "The whale is large."},
        {"role": "user", "content": "Go on."},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|bos|><|system|>You are a helpful assistant.<|eos|><|user|>Tell me about the whale.<|eos|>"
        "<|assistant|>The whale is large.<|eos|><|user|>Go on.<|eos|><|assistant|>"
    )
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == rendered
    assert ids.count(tokenizer.eos_token_id) == len(messages)


def test_held_out_text_is_likely_and_its_shuffle_is_not(model: Any, tokenizer: Any) -> None:
    ids = tokenizer(HELD_OUT)["input_ids"]
    shuffled = ids[1:]
    random.Random(0).shuffle(shuffled)
    likely = float(log_probabilities(model, ids).mean())
    unlikely = float(log_probabilities(model, [ids[0], *shuffled]).mean())
    assert likely > -4.0
    assert unlikely < likely - 2.0


def test_logits_are_separated(model: Any, tokenizer: Any) -> None:
    best, second = logits_of(model, tokenizer(HELD_OUT)["input_ids"]).topk(2).values.unbind(-1)
    assert float((best - second).median()) > 0.3


def test_greedy_continuation_is_made_of_words(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("She was not at all sorry to be left alone with her sister,", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=120, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    words = re.findall(r"[a-z]+", tokenizer.decode(ids, skip_special_tokens=True).lower())
    common = set(COMMON_WORDS.split())
    assert len(words) >= 60
    assert len(set(words)) >= 15
    assert sum(word in common for word in words) >= 0.4 * len(words)


def test_long_prompt_is_read_as_well_as_a_short_one(model: Any, tokenizer: Any) -> None:
    bos, *paragraph = tokenizer(HELD_OUT + "\n\n")["input_ids"]
    copies = 2000 // len(paragraph)
    scores = log_probabilities(model, [bos, *paragraph * copies]).view(copies, -1).mean(-1)
    assert float(scores[-1]) > float(scores[0]) - 0.3


def test_an_answer_ends(model: Any, tokenizer: Any) -> None:
    message = [{"role": "user", "content": "Tell me about the whale."}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt")
    torch.manual_seed(0)
    answers = model.generate(**prompt, max_new_tokens=400, do_sample=True, num_return_sequences=8)
    assert (answers[:, prompt["input_ids"].shape[1] :] == tokenizer.eos_token_id).any(-1).sum() >= 4
