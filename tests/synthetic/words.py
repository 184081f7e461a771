"""A CLIP tokenizer of the real one's size that knows some English words."""

import json
import re
from collections import Counter
from itertools import chain, pairwise, product
from pathlib import Path

SIZE = 49_408
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORDS = re.findall(
    r"\w+",
    """
a an the and or of in on at by with from to for over under near into through beside behind above
is are was it its this that some one two three four five many no not very more
city town village street house castle bridge tower road harbour market station garden park room
sea ocean river lake beach island waterfall desert mountain hill valley forest tree field flower
sky sun moon star cloud rain snow fog storm wind fire water ice smoke light shadow
day night dawn morning noon evening sunset sunrise spring summer autumn winter
cat dog horse bird fox bear lion tiger wolf fish owl rabbit elephant dragon robot
man woman girl boy child person people king queen knight wizard astronaut old young
car train boat ship bicycle plane zeppelin balloon book chair table lamp cup bottle apple bread
red orange yellow green blue purple pink brown black white grey gold silver dark bright pale
small large tall tiny huge long round plain empty quiet wild ancient modern futuristic cyberpunk
photo photograph painting watercolour drawing sketch portrait landscape skyline poster art style
oil ink film studio cinematic detailed sharp soft blurry low high quality background lens wide
riding running standing sitting flying sleeping reading looking holding wearing standing glass
""",
)


def _byte_alphabet() -> list[str]:
    """GPT-2's and CLIP's letter for each byte: itself if it prints, else one from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return [chr(byte) for byte in printing] + [chr(256 + index) for index in range(len(others))]


def _learned(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding: the most frequent pair is joined until every word is one token."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while pairs := Counter(chain.from_iterable(pairwise(parts) for parts in split.values())):
        first, second = best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts in split.values():
            for index in range(len(parts) - 2, -1, -1):
                if parts[index : index + 2] == [first, second]:
                    parts[index : index + 2] = [first + second]
    return merges


def tokenizer_files() -> dict[str, str]:
    """merges.txt and vocab.json as text, written as Stability's are.

    The merges that real text is not made for join pairs of bytes outside ASCII.
    """
    alphabet = _byte_alphabet()
    letters = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    rare = [letter for letter in alphabet if not letter.isascii()]
    merges = _learned(WORDS)
    fillers = chain(product(rare, rare), product(rare, [letter + "</w>" for letter in rare]))
    while len(letters) + len(merges) + len(SPECIAL) < SIZE:
        merges.append(next(fillers))
    tokens = [*letters, *(first + second for first, second in merges), *SPECIAL]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    return {
        "merges.txt": "\n".join(lines) + "\n",
        "vocab.json": json.dumps(vocabulary, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }


def write_tokenizer(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
