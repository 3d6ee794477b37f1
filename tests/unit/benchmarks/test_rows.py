"""What every row of results says of the machine that it was measured on."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rows import processor


def test_the_processor_is_named_as_it_names_itself(tmp_path: Path) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n\nprocessor\t: 1\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert processor(described) == "Fast CPU @ 3 GHz"


def test_one_without_a_name_still_has_a_word(tmp_path: Path) -> None:
    assert processor(tmp_path / "missing")
