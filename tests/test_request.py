"""From the wish to the facts."""

import json

import pytest

from sdxl_lightning_mcp.catalogue import LIGHTNING, MINI
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import InvalidRequestError
from sdxl_lightning_mcp.request import GenerationRequest, read_request, request_schema, resolve


def test_a_prompt_alone_is_a_request_and_the_model_decides_the_rest() -> None:
    parameters, notes = resolve(read_request({"prompt": "a cat"}, MINI), MINI)
    assert parameters.model_dump(exclude={"seed"}) == {
        "model": "mini",
        "checkpoint": MINI.checkpoint.name,
        "prompt": "a cat",
        "negative_prompt": "",
        "width": 1024,
        "height": 1024,
        "guidance": 0.0,
        "steps": 4,
    }
    assert notes == ()


def test_a_seed_left_out_is_chosen_anew_each_time() -> None:
    request = read_request({"prompt": "a cat"}, MINI)
    seeds = {resolve(request, MINI)[0].seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_numbers_may_come_as_strings() -> None:
    request = read_request(
        {"prompt": "a cat", "seed": "7", "width": "512", "guidance": "1.5", "steps": "2"}, MINI
    )
    assert (request.seed, request.width, request.guidance, request.steps) == (7, 512, 1.5, 2)


def test_null_means_left_out() -> None:
    request = read_request({"prompt": "a cat", "seed": None, "negative_prompt": None}, MINI)
    assert request == GenerationRequest(prompt="a cat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "prompt: got nothing; allowed: a text of 1 to 2,000 characters"),
        ({"prompt": ""}, "prompt: got an empty text; allowed: a text of 1 to 2,000 characters"),
        ({"prompt": " \n"}, "prompt: got an empty text; allowed: a text of 1 to 2,000 characters"),
        (
            {"prompt": "x" * 2001},
            "prompt: got a text of 2,001 characters; allowed: a text of 1 to 2,000 characters",
        ),
        ({"prompt": 3}, "prompt: got 3; allowed: a text of 1 to 2,000 characters"),
        (
            {"prompt": ["a", "b"]},
            "prompt: got list ['a', 'b']; allowed: a text of 1 to 2,000 characters",
        ),
        (
            {"prompt": "x", "negative_prompt": "y" * 2001},
            "negative_prompt: got a text of 2,001 characters; "
            "allowed: a text of 0 to 2,000 characters",
        ),
        (
            {"prompt": "x", "width": 1001},
            "width: got 1001; allowed: multiples of 8, 256 to 2048; nearest: 1000 or 1008",
        ),
        (
            {"prompt": "x", "width": 512.5},
            "width: got 512.5; allowed: multiples of 8, 256 to 2048; nearest: 512 or 520",
        ),
        (
            {"prompt": "x", "width": 100000, "height": 8},
            "width: got 100000; allowed: multiples of 8, 256 to 2048; nearest: 2048\n"
            "height: got 8; allowed: multiples of 8, 256 to 2048; nearest: 256",
        ),
        ({"prompt": "x", "steps": 0}, "steps: got 0; allowed: whole numbers, 1 to 12; nearest: 1"),
        (
            {"prompt": "x", "steps": 13},
            "steps: got 13; allowed: whole numbers, 1 to 12; nearest: 12",
        ),
        ({"prompt": "x", "guidance": -1}, "guidance: got -1; allowed: 0 to 10; nearest: 0"),
        ({"prompt": "x", "guidance": float("nan")}, "guidance: got nan; allowed: 0 to 10"),
        ({"prompt": "x", "guidance": float("inf")}, "guidance: got inf; allowed: 0 to 10"),
        (
            {"prompt": "x", "seed": -1},
            "seed: got -1; allowed: whole numbers, 0 to 4294967295; nearest: 0",
        ),
        (
            {"prompt": "x", "seed": 2**32},
            "seed: got 4294967296; allowed: whole numbers, 0 to 4294967295; nearest: 4294967295",
        ),
        ({"prompt": "x", "steps": True}, "steps: got True; allowed: whole numbers, 1 to 12"),
        ({"prompt": "x", "steps": "four"}, "steps: got 'four'; allowed: whole numbers, 1 to 12"),
        (
            {"prompt": "x", "sede": 1},
            "sede: got an unknown field; allowed: prompt, negative_prompt, seed, width, height, "
            "guidance, steps; nearest: seed",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_with_the_cure(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_request(arguments, MINI)
    assert str(refused.value) == message


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_request({"prompt": "", "steps": 0, "width": 3, "colour": "red"}, MINI)
    assert [problem.field for problem in refused.value.problems] == [
        "prompt",
        "width",
        "steps",
        "colour",
    ]
    with pytest.raises(InvalidRequestError) as refused:
        read_request({"prompt": "x", "width": 300, "steps": 50, "guidance": "11"}, MINI)
    assert [problem.field for problem in refused.value.problems] == ["width", "guidance", "steps"]


def test_a_request_made_by_hand_keeps_to_the_models_limits_too() -> None:
    request = GenerationRequest(prompt="x", steps=50, guidance=15)
    with pytest.raises(InvalidRequestError) as refused:
        resolve(request, MINI)
    assert [problem.field for problem in refused.value.problems] == ["guidance", "steps"]


def test_too_many_pixels_are_refused_with_the_largest_size_of_that_shape() -> None:
    request = read_request({"prompt": "x", "width": 2048, "height": 2048}, MINI)
    with pytest.raises(InvalidRequestError, match=r"4,194,304 pixels.*nearest: 1536x1536"):
        resolve(request, MINI)


def test_the_size_offered_instead_of_too_many_pixels_is_allowed() -> None:
    request = read_request({"prompt": "x", "width": 2048, "height": 1160}, MINI)
    with pytest.raises(InvalidRequestError) as refused:
        resolve(request, MINI)
    width, height = refused.value.problems[0].nearest[0].split("x")
    resolve(read_request({"prompt": "x", "width": width, "height": height}, MINI), MINI)


def test_a_negative_prompt_that_can_have_no_effect_is_noted() -> None:
    request = read_request({"prompt": "x", "negative_prompt": "blurry"}, MINI)
    parameters, notes = resolve(request, MINI)
    assert parameters.negative_prompt == "blurry"
    assert notes == ("The negative prompt has no effect at guidance 0; it needs guidance above 1.",)
    guided = read_request({"prompt": "x", "negative_prompt": "blurry", "guidance": 2}, MINI)
    assert not any("no effect" in note for note in resolve(guided, MINI)[1])


def test_steps_the_weights_are_not_made_for_are_noted() -> None:
    _, notes = resolve(read_request({"prompt": "x", "steps": 12}, MINI), MINI)
    assert notes == ("mini-1 is made for 4 steps; 12 were asked for.",)


def test_guidance_the_weights_are_not_made_for_is_noted() -> None:
    def notes(model: Model, guidance: float) -> tuple[str, ...]:
        return resolve(read_request({"prompt": "x", "guidance": guidance}, model), model)[1]

    name = LIGHTNING.checkpoint.name
    assert notes(LIGHTNING, 2.5) == (
        f"{name} is made without guidance; 2.5 was asked for, which can spoil the picture.",
    )
    assert notes(MINI, 4.5) == (
        "mini-1 is made for guidance up to 4; 4.5 was asked for, which can spoil the picture.",
    )
    assert notes(LIGHTNING, 1) == notes(MINI, 4) == ()


def test_the_schema_is_flat_and_closed_and_carries_limits_and_defaults() -> None:
    schema = request_schema(MINI)
    assert list(schema["properties"]) == list(GenerationRequest.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["prompt"]
    assert "anyOf" not in json.dumps(schema)
    described = {name: dict(field) for name, field in schema["properties"].items()}
    assert all(field.pop("description") for field in described.values())
    assert described == {
        "prompt": {"type": "string", "minLength": 1, "maxLength": 2000, "pattern": "\\S"},
        "negative_prompt": {"type": "string", "maxLength": 2000},
        "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295},
        "width": {
            "type": "integer",
            "minimum": 256,
            "maximum": 2048,
            "multipleOf": 8,
            "default": 1024,
        },
        "height": {
            "type": "integer",
            "minimum": 256,
            "maximum": 2048,
            "multipleOf": 8,
            "default": 1024,
        },
        "guidance": {"type": "number", "minimum": 0, "maximum": 10, "default": 0},
        "steps": {"type": "integer", "minimum": 1, "maximum": 12, "default": 4},
    }
