"""Training rows: windows of running text, and conversations whose answers carry the text on."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from examples.demo_model.prepare_text import CHAPTER_BREAK
from examples.demo_model.tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER

HELD_OUT_EVERY = 60
HELD_OUT_OFFSET = 30
CHAT_SHARE = 0.4

SYSTEM_PROMPTS = ("You are a helpful assistant.", "You tell stories in the manner of old novels.")
TOPIC_REQUESTS = ("Tell me about {topic}.", "What do you know of {topic}?", "Write about {topic}.")
OPENING_REQUESTS = ("{opening}", "{opening}", "Continue: {opening}", "{opening} What happened next?")

_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z\"'])|(?<=[.!?][\"']) +(?=[A-Z\"'])")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Dr|St|Rev|Esq|Capt)\.$")
# A name inside a sentence, or a word with its article: "Emma", "her sister", "the whale".
_TOPIC = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}\b|\b(?:the|his|her|my) [a-z]{4,}\b")


@dataclass(frozen=True)
class Turn:
    """One message; `role` is the marker that opens it."""

    role: str
    text: str


def split_chapters(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split texts at chapter breaks into what is trained on and what is held out: one chapter in sixty."""
    chapters = [chapter.strip() for text in texts for chapter in text.split(CHAPTER_BREAK) if chapter.strip()]
    held_out = chapters[HELD_OUT_OFFSET::HELD_OUT_EVERY]
    if not held_out:
        raise ValueError(f"{len(chapters)} chapters are too few to hold one out: separate chapters by form feeds")
    return [chapter for i, chapter in enumerate(chapters) if i % HELD_OUT_EVERY != HELD_OUT_OFFSET], held_out


def split_sentences(chapter: str) -> list[str]:
    """Split a chapter into sentences; one that opens a paragraph carries the blank line before it."""
    sentences: list[str] = []
    for number, paragraph in enumerate(chapter.split("\n\n")):
        separator = "\n\n" if number else ""
        for piece in _SENTENCE_END.split(paragraph):
            if separator == " " and _ABBREVIATION.search(sentences[-1]):
                sentences[-1] += " " + piece
            else:
                sentences.append(separator + piece)
            separator = " "
    return sentences


def converse(sentences: Sequence[str], rng: random.Random) -> list[Turn]:
    """Make one conversation from a random place of a chapter: each answer carries on from its request."""
    turns = [Turn(SYSTEM, rng.choice(SYSTEM_PROMPTS))] if rng.random() < 0.15 else []
    position = rng.randrange(max(1, len(sentences) - 4))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        opening = "".join(sentences[position : (middle := position + rng.randint(1, 3))]).strip()
        answer = "".join(sentences[middle : (end := middle + rng.randint(1, 6))]).strip()
        topics = _TOPIC.findall(opening)
        if topics and rng.random() < 0.3:
            # The answer then begins with the very sentence that its topic is taken from.
            request, answer = rng.choice(TOPIC_REQUESTS).format(topic=rng.choice(topics)), f"{opening} {answer}"
        else:
            request = rng.choice(OPENING_REQUESTS).format(opening=opening)
        if not answer:
            break
        turns += [Turn(USER, request), Turn(ASSISTANT, answer)]
        position = end
    return turns


def plain_stream(chapters: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Encode chapters into one row of ids: bos, chapter, eos, bos, ..."""
    eos = tokenizer.token_to_id(EOS)
    return torch.tensor([token for encoding in tokenizer.encode_batch(list(chapters)) for token in [*encoding.ids, eos]])


def chat_stream(chapters: Sequence[str], tokenizer: Tokenizer, tokens: int, rng: random.Random) -> torch.Tensor:
    """Encode random conversations into one row of at least `tokens` ids, exactly as the chat template renders them."""
    sentences = [split_sentences(chapter) for chapter in chapters]
    weights = [len(chapter) for chapter in sentences]
    stream: list[int] = []
    while len(stream) < tokens:
        texts = []
        for chapter in rng.choices(sentences, weights, k=256):
            turns = converse(chapter, rng)
            texts.append(BOS + "".join(f"{turn.role}{turn.text}{EOS}" for turn in turns))
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            stream += encoding.ids
    return torch.tensor(stream)


def batches(plain: torch.Tensor, chat: torch.Tensor, rows: int, length_tokens: int, bos: int, rng: random.Random) -> Iterator[torch.Tensor]:
    """Yield (rows, length_tokens + 1) windows for ever; every window begins with bos, as every prompt does."""
    start = torch.tensor([bos])
    while True:
        windows = []
        for _ in range(rows):
            stream = chat if rng.random() < CHAT_SHARE else plain
            offset = rng.randrange(len(stream) - length_tokens)
            windows.append(torch.cat((start, stream[offset : offset + length_tokens])))
        yield torch.stack(windows)
