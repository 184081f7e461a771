"""Encode, denoise, decode: held against diffusers' own pipeline on the same weights."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from sdxl_lightning_mcp.catalogue import MINI_FOLDER
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.request import Parameters


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    opened = StableDiffusionXLPipeline.from_pretrained(
        MINI_FOLDER, dtype=torch.float32, low_cpu_mem_usage=False
    )
    opened.set_progress_bar_config(disable=True)
    return opened


def denoised(mini: Sdxl, parameters: Parameters) -> Sample:
    sample = mini.prepare("a", parameters)
    while not sample.denoised:
        mini.denoise([sample])
    return sample


def pipeline_output(
    pipeline: StableDiffusionXLPipeline, parameters: Parameters, output_type: str
) -> torch.Tensor | np.ndarray:
    return pipeline(
        parameters.prompt,
        negative_prompt=parameters.negative_prompt or None,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        guidance_scale=parameters.guidance,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        output_type=output_type,
    ).images


@pytest.mark.parametrize("guidance", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 12])
def test_latents_equal_the_pipelines_bit_for_bit(
    mini: Sdxl,
    pipeline: StableDiffusionXLPipeline,
    parameters: Parameters,
    steps: int,
    guidance: float,
) -> None:
    asked = parameters.model_copy(update={"steps": steps, "guidance": guidance})
    expected = pipeline_output(pipeline, asked, "latent")
    assert torch.equal(denoised(mini, asked).latents, torch.as_tensor(expected))


def test_latents_equal_the_pipelines_with_a_negative_prompt_at_the_native_size(
    mini: Sdxl, pipeline: StableDiffusionXLPipeline, parameters: Parameters
) -> None:
    asked = parameters.model_copy(
        update={"negative_prompt": "snow", "guidance": 3.0, "width": 1024, "height": 1024}
    )
    expected = pipeline_output(pipeline, asked, "latent")
    assert torch.equal(denoised(mini, asked).latents, torch.as_tensor(expected))


def test_pixels_equal_the_pipelines(
    mini: Sdxl, pipeline: StableDiffusionXLPipeline, parameters: Parameters
) -> None:
    expected = np.asarray(pipeline_output(pipeline, parameters, "pil")[0])
    assert np.array_equal(np.asarray(mini.decode(denoised(mini, parameters))), expected)


def test_samples_at_different_steps_share_a_call_and_come_out_as_if_alone(
    mini: Sdxl, parameters: Parameters
) -> None:
    wishes = [
        parameters,
        parameters.model_copy(update={"seed": 8, "prompt": "the sea at sunset", "steps": 2}),
        parameters.model_copy(update={"seed": 9, "guidance": 3.0, "negative_prompt": "a boat"}),
        parameters.model_copy(update={"seed": 10, "steps": 7}),
    ]
    alone = [denoised(mini, wish).latents for wish in wishes]
    samples = [mini.prepare(str(index), wish) for index, wish in enumerate(wishes)]
    mini.denoise(samples[:1])
    mini.denoise(samples[:3])
    assert [sample.step for sample in samples] == [2, 1, 1, 0]
    while under_way := [sample for sample in samples if not sample.denoised]:
        mini.denoise(under_way)
    for sample, expected in zip(samples, alone, strict=True):
        assert torch.allclose(sample.latents, expected, atol=2e-4)


def test_a_size_between_two_latent_sizes_is_drawn_larger_and_cut(
    mini: Sdxl, parameters: Parameters
) -> None:
    sample = denoised(mini, parameters.model_copy(update={"width": 520, "height": 504}))
    assert mini.decode(sample).size == (520, 504)
    assert sample.notes == ["Drawn at 544x512 and cut to size."]


def test_words_beyond_77_tokens_are_named_and_very_many_are_counted(
    mini: Sdxl, parameters: Parameters
) -> None:
    def notes(prompt: str) -> list[str]:
        return mini.prepare("a", parameters.model_copy(update={"prompt": prompt})).notes

    cut = "The prompt was cut after 75 tokens; not read: "
    assert notes("night " * 75) == []
    assert notes("night " * 75 + "with a zeppelin") == [f'{cut}"with a zeppelin"']
    (note,) = notes("night " * 175)
    assert note == f'{cut}"{("night " * 100)[:200]}... (599 characters)"'


def test_a_typed_end_of_text_token_is_read_as_text(mini: Sdxl, parameters: Parameters) -> None:
    plain = mini.prepare("a", parameters.model_copy(update={"prompt": "a city"}))
    typed = mini.prepare("a", parameters.model_copy(update={"prompt": "a <|endoftext|> city"}))
    ended = mini.prepare("a", parameters.model_copy(update={"prompt": "a"}))
    assert not torch.equal(typed.positive.pooled, plain.positive.pooled)
    assert not torch.equal(typed.positive.pooled, ended.positive.pooled)


def test_guidance_up_to_one_runs_no_second_branch(mini: Sdxl, parameters: Parameters) -> None:
    for guidance in (0.0, 0.5, 1.0):
        assert (
            mini.prepare("a", parameters.model_copy(update={"guidance": guidance})).negative is None
        )
    assert mini.prepare("a", parameters.model_copy(update={"guidance": 1.5})).negative is not None


def test_latents_that_are_not_numbers_are_refused_and_no_black_picture_is_made(
    mini: Sdxl, parameters: Parameters
) -> None:
    from sdxl_lightning_mcp.errors import RunFailedError

    sample = denoised(mini, parameters)
    sample.latents = torch.full_like(sample.latents, float("nan"))
    with pytest.raises(RunFailedError, match="not-a-number"):
        mini.decode(sample)
