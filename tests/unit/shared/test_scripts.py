"""Each script says what it takes and what it answers."""

from __future__ import annotations

from importlib.resources import files

import pytest

from shared import scripts
from shared.scripts import Script

ALL = {script.name: script for script in vars(scripts).values() if isinstance(script, Script)}
TEXTS = {path.name.removesuffix(".lua"): path.read_text() for path in files("shared").joinpath("lua").iterdir()}


def test_each_file_is_a_script() -> None:
    assert set(ALL) == set(TEXTS)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_header_names_keys_arguments_and_answer(name: str) -> None:
    lines = TEXTS[name].splitlines()
    header = [line for line in lines[1:] if line.startswith("--")]
    assert lines[0].startswith("#!lua")
    for word in ("KEYS", "ARGV", "ANSWER"):
        assert any(line.startswith(f"-- {word} ") for line in header), word


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_script_walks_the_keys(name: str) -> None:
    assert "'KEYS'" not in TEXTS[name]
    assert "'SCAN'" not in TEXTS[name]


def test_only_taking_on_is_refused_for_memory() -> None:
    refusable = {name for name, text in TEXTS.items() if "allow-oom" not in text.splitlines()[0]}
    assert refusable == {"create_log", "submit", "tell_story"}
