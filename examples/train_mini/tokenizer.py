"""Learns the tokenizer: a byte-level BPE in CLIP's format, from captions alone.

Every byte has a token, so there is no text it cannot read; words it has not seen fall into pieces.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from captions import caption
from specs import all_objects, moved_objects, sample_place
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
WORD_END = "</w>"
# CLIP's own rule for cutting text into words, without the special tokens.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def caption_corpus(count: int, seed: int = 7) -> list[str]:
    """Write `count` captions of random specifications."""
    rng = random.Random(seed)
    objects = all_objects() + moved_objects(rng, 2000)
    return [caption(rng.choice(objects) if k % 2 else sample_place(rng), rng) for k in range(count)]


def learn_tokenizer(folder: Path, captions: int, merges: int) -> CLIPTokenizer:
    """Learn a vocabulary, write it to `folder`, and return the tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        min_frequency=10,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(caption_corpus(captions), trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learnt]
    _write_clip_files(folder, alphabet, pairs)
    return load_tokenizer(folder)


def _write_clip_files(folder: Path, alphabet: list[str], pairs: list[tuple[str, str]]) -> None:
    """Write vocab.json and merges.txt in CLIP's order: bytes, bytes that end a word, merges."""
    tokens = dict.fromkeys([*alphabet, *(byte + WORD_END for byte in alphabet)])
    kept = []
    for first, second in pairs:
        if first in tokens and second in tokens:
            kept.append(f"{first} {second}")
            tokens[first + second] = None
    vocabulary = {token: k for k, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vocabulary, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    text = "\n".join(["#version: 0.2", *kept, ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the tokenizer that `learn_tokenizer` wrote."""
    return CLIPTokenizer.from_pretrained(str(folder))
