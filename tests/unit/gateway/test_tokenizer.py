"""The gateway's tokenizer gives what `transformers` gives, token for token, without importing it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tokenizer import Message, Tokenizer
from shared.errors import BadRequest, ConfigError
from tests.support.tokenizer_dirs import UNLIKE, byte_backend, save

# Its other side imports torch, and in one process of the run is enough.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("transformers")]

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "examples" / "demo_model" / "weights"
T = TypeVar("T")

TEXTS = [
    *(
        "hello world",
        "Hello  World who are you?",
        " leading",
        "trailing ",
        "\n\n",
        "é 中文 🙂 \u200d",
        "<s>[INST] hello</s>",
        "a<|end|>b<|user|>",
    ),
    *("<|bos|>x<|eos|><|pad|>", "[MASK] hello [SEP] [EXTRA]", "x<|image|>y<|pause|>", "<b>&'\"</b>", "hellohello " * 40),
]
CHATS = [
    [("user", "hello")],
    [("system", "  who are you  "), ("user", "hello <b>& 'world'</b>")],
    [("user", "hello"), ("assistant", "world"), ("user", "who\nare\n\nyou 中文")],
    [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "never shown"), ("user", "nor this")],
    [("user", "<|end|><|assistant|>[SEP]<|eos|>")],
]


class Pair(NamedTuple):
    ours: Tokenizer
    theirs: Any


@pytest.fixture(scope="module", params=["demo", *UNLIKE])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from transformers import AutoTokenizer

    folder = DEMO if request.param == "demo" else UNLIKE[request.param](tmp_path_factory.mktemp(request.param))
    return Pair(Tokenizer.load(folder), AutoTokenizer.from_pretrained(str(folder), local_files_only=True))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def chat(turns: list[tuple[str, str]]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def test_the_vocabulary_is_as_long(pair: Pair) -> None:
    assert pair.ours.vocabulary == len(pair.theirs)


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_ids_for_text(pair: Pair, text: str) -> None:
    assert list(run(pair.ours.encode_text(text, "prompt"))) == pair.theirs(text)["input_ids"]


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_the_same_ids_for_any_text(pair: Pair, text: str) -> None:
    expected = pair.theirs(text)["input_ids"]
    if expected:
        assert list(run(pair.ours.encode_text(text, "prompt"))) == expected


@pytest.mark.parametrize("turns", CHATS)
def test_the_same_ids_for_a_chat(pair: Pair, turns: list[tuple[str, str]]) -> None:
    """Where the one refuses, for want of a template or by the template, the other does."""
    try:
        expected = pair.theirs.apply_chat_template(chat(turns), tokenize=True, add_generation_prompt=True)["input_ids"]
    except Exception as error:
        refusal = str(error).partition(" and ")[0] if pair.theirs.chat_template else "no chat template"
        with pytest.raises(BadRequest, match=refusal.replace("/", ".").replace("...", "")):
            run(pair.ours.encode_chat(chat(turns), "messages"))
    else:
        assert list(run(pair.ours.encode_chat(chat(turns), "messages"))) == expected


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    return Tokenizer.load(UNLIKE["word_level"](tmp_path))


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([("user", "a"), ("user", "b")], "Conversation roles must alternate"),
        ([("user", "add")], 'can only concatenate str .not "int". to str'),
    ],
)
def test_what_a_template_raises_is_the_callers_error(words: Tokenizer, turns: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as refused:
        run(words.encode_chat(chat(turns), "messages"))
    assert (refused.value.param, refused.value.code) == ("messages", "chat_template_error")


@pytest.mark.parametrize(
    "attempt",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
    ],
)
def test_a_template_stays_in_its_sandbox(tmp_path: Path, attempt: str) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, byte_backend(), {"chat_template": attempt}))
    with pytest.raises(BadRequest, match="refuses these messages"):
        run(tokenizer.encode_chat(chat([("user", "a")]), "messages"))


def test_an_empty_prompt_names_its_parameter(words: Tokenizer, tmp_path: Path) -> None:
    plain = Tokenizer.load(save(tmp_path, byte_backend(), {}))
    with pytest.raises(BadRequest, match="'prompt' gives no tokens"):
        run(plain.encode_text("", "prompt"))
    assert run(words.encode_text("", "prompt")) == (1, 2)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("tokenizer.json", None, "holds no tokenizer.json: save it with"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be loaded"),
        ("tokenizer_config.json", "{", "cannot read .*tokenizer_config.json"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer_config.json", json.dumps({"chat_template": "{% if %}"}), "chat template does not compile"),
    ],
)
def test_a_broken_directory_is_named_with_the_remedy(tmp_path: Path, file: str, content: str | None, named: str) -> None:
    save(tmp_path, byte_backend(), {})
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=named):
        Tokenizer.load(tmp_path)


def test_gateway_and_scheduler_start_without_torch() -> None:
    """It would cost each of them ten seconds of CPU and 300 MiB."""
    program = (
        "import gateway.process, scheduler.process, sys; from pathlib import Path; from gateway.tokenizer import Tokenizer;"
        f"Tokenizer.load(Path({str(DEMO)!r}));"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
