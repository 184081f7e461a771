"""Prompts longer than the text encoders' 77 tokens."""

from pathlib import Path

import pytest
import torch
from repositories import small_model

from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.request import Parameters


@pytest.fixture(scope="module")
def sdxl(repositories: Path) -> Sdxl:
    return Sdxl.open(small_model(repositories).checkpoint, FLOAT32_CPU)


@pytest.fixture
def wish() -> Parameters:
    return Parameters(
        model="small",
        checkpoint="small_4step_unet",
        prompt="a house",
        negative_prompt="",
        seed=3,
        width=128,
        height=128,
        guidance=0.0,
        steps=1,
    )


def told(sdxl: Sdxl, wish: Parameters, prompt: str) -> tuple[torch.Tensor, list[str]]:
    sample = sdxl.prepare("a", wish.model_copy(update={"prompt": prompt}))
    return sample.positive.tokens, sample.notes


def length(sdxl: Sdxl, word: str) -> int:
    tokenizer = sdxl.held.networks.tokenizers[0]
    return len(tokenizer(word, add_special_tokens=False).input_ids)


def test_a_prompt_of_three_chunks_is_read_to_its_last_word(sdxl: Sdxl, wish: Parameters) -> None:
    assert length(sdxl, "house") == length(sdxl, "night") == 1
    long, notes = told(sdxl, wish, "house " * 224 + "night")
    other, _ = told(sdxl, wish, "house " * 225)
    assert notes == []
    assert long.shape[1] == 3 * 77
    assert torch.equal(long[:, : 2 * 77], other[:, : 2 * 77])
    assert not torch.equal(long[:, 2 * 77 :], other[:, 2 * 77 :])


def test_each_chunk_is_encoded_as_it_would_be_alone(sdxl: Sdxl, wish: Parameters) -> None:
    both, _ = told(sdxl, wish, "house " * 75 + "night")
    first, _ = told(sdxl, wish, "house " * 75)
    second, _ = told(sdxl, wish, "night")
    assert torch.allclose(both, torch.cat([first, second], dim=1), atol=1e-5)


def test_a_chunk_ends_with_a_word(sdxl: Sdxl, wish: Parameters) -> None:
    word = next(w for w in ("zqxjk", "lighthouse", "zeppelin") if 1 < length(sdxl, w) < 20)
    both, _ = told(sdxl, wish, "house " * 74 + word)
    first, _ = told(sdxl, wish, "house " * 74)
    second, _ = told(sdxl, wish, word)
    assert torch.allclose(both, torch.cat([first, second], dim=1), atol=1e-5)


def test_nothing_is_lost_where_every_chunk_would_rather_end_with_a_word(
    sdxl: Sdxl, wish: Parameters
) -> None:
    word = "zqxjkvw"
    many = length(sdxl, word)
    assert many > 2
    for before in range(73, 76):
        words = "house " * before + f"{word} " + "house " * (75 - many) + f"{word} "
        words += "house " * (225 - before - 75 - many)
        assert told(sdxl, wish, words)[1] == []


def test_beyond_225_tokens_the_lost_words_are_named(sdxl: Sdxl, wish: Parameters) -> None:
    tokens, notes = told(sdxl, wish, "house " * 225 + "by night")
    assert tokens.shape[1] == 3 * 77
    assert notes == ['The prompt was cut after 225 tokens; not read: "by night"']


def test_a_long_and_a_short_prompt_share_a_call(sdxl: Sdxl, wish: Parameters) -> None:
    for prompt, negative in (("house " * 100, "night"), ("house", "night " * 100)):
        asked = {"prompt": prompt, "negative_prompt": negative, "guidance": 2.0}
        sample = sdxl.prepare("a", wish.model_copy(update=asked))
        assert sample.negative is not None
        assert sample.positive.tokens.shape == sample.negative.tokens.shape
        sdxl.denoise([sample])
        assert torch.isfinite(sample.latents).all()


def test_prompts_of_other_lengths_do_not_share_a_call(sdxl: Sdxl, wish: Parameters) -> None:
    short = sdxl.prepare("a", wish)
    long = sdxl.prepare("b", wish.model_copy(update={"prompt": "house " * 100}))
    assert short.batch_key != long.batch_key


def test_a_prompt_said_again_is_not_encoded_again(sdxl: Sdxl, wish: Parameters) -> None:
    first, _ = told(sdxl, wish, "a house by the sea")
    again, _ = told(sdxl, wish, "a house by the sea")
    assert again is first
