"""Write the corpus of bad inputs: python Testing/fuzz/corpus.py FOLDER [--seed N]

FOLDER gets the files and manifest.json, a list of: file, kind (an operation of `takes_all`, or model or archive), valid
(whether a valid result is an allowed ending, too: the damage cannot be seen, or the form is one we take), why.
The same seed writes the same files, but for those that are no files (pipes, loops of links).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One input: where it lies in the corpus, what it is given as, and whether it may be taken."""

    file: str
    kind: str
    valid: bool
    why: str


class Corpus:
    """The folder being filled, the chance that fills it, and what has been put in."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.entries: list[Entry] = []

    def place(self, kind: str, name: str, why: str, valid: bool = False) -> Path:
        """Note an input and give its path, in a folder of its own."""
        path = self.folder / f"{len(self.entries):03d}" / name
        path.parent.mkdir(parents=True)
        self.entries.append(Entry(str(path.relative_to(self.folder)), kind, valid, why))
        return path

    def add(self, kind: str, name: str, content: bytes | str, why: str, valid: bool = False) -> Path:
        """`place` with a file's content."""
        path = self.place(kind, name, why, valid)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def damage(self, kind: str, name: str, good: bytes, header: int) -> None:
        """A good file cut at several places, and with bits flipped in its header and behind it."""
        for share in (0.0, 0.01, 0.3, 0.6, 0.97):
            self.add(kind, name, good[: int(len(good) * share)], f"{share:.0%} of it", valid=share > 0.9)
        for place, low, high, count in (("header", 0, header, 4), ("body", header, len(good), 2)):
            for _ in range(count):
                content = bytearray(good)
                for at in self.random.integers(low, max(low + 1, min(high, len(good))), 3):
                    content[at] ^= 1 << int(self.random.integers(8))
                self.add(kind, name, bytes(content), f"bits of its {place} flipped", valid=True)

    def write_manifest(self) -> None:
        """Say what is in the folder."""
        text = json.dumps([asdict(entry) for entry in self.entries], indent=1, ensure_ascii=False)
        (self.folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def write(folder: Path, seed: int = 0) -> list[Entry]:
    """The whole corpus; what is in it."""
    import bad_bundles
    import bad_images
    import bad_texts

    corpus = Corpus(folder, seed)
    for part in (bad_images, bad_texts, bad_bundles):
        part.fill(corpus)
    corpus.write_manifest()
    return corpus.entries


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{len(write(arguments.folder, arguments.seed))} inputs in {arguments.folder}")
