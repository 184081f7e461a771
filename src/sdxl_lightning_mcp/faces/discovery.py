"""What agents read about us: the model spec, llms.txt, and the skill."""

import re
from pathlib import Path
from typing import Any

from sdxl_lightning_mcp.catalogue import CATALOGUE, PACKAGE
from sdxl_lightning_mcp.checkpoint import Checkpoint, Model
from sdxl_lightning_mcp.request import request_schema

SKILL = Path("skills", "sdxl-lightning", "SKILL.md")
SKILL_PATH = "/.well-known/agent-skills/sdxl-lightning/SKILL.md"


def model_spec(model: Model) -> dict[str, Any]:
    """Everything an agent needs to know of a model, as data."""
    return {
        "model": model.slug,
        "title": model.title,
        "summary": model.summary,
        "tool": "generate_image",
        "input": request_schema(model),
        "output": {
            "content": ["image/jpeg preview", "text", "resource_link to the full JPEG file"],
            "facts": "_meta['sdxl-lightning-mcp/run']",
            "if_not_finished": "the run's id, for the tool get_image",
        },
        "sizes": [f"{width}x{height}" for width, height in model.sizes],
        "max_pixels": model.max_pixels,
        "checkpoint": _checkpoint_spec(model.checkpoint),
        "other_checkpoints": [_checkpoint_spec(one) for one in model.checkpoints[1:]],
        "license": {
            "name": model.checkpoint.license.name,
            "url": model.checkpoint.license.url,
            "not_allowed": model.checkpoint.license.restrictions,
        },
    }


def _checkpoint_spec(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "steps": checkpoint.steps,
        "guidance": checkpoint.guidance,
        "prediction_type": checkpoint.prediction_type,
        "scheduler": f"Euler, {checkpoint.spacing} timesteps",
        "prompt_tokens": 75 * checkpoint.prompt_chunks,
        "loras": [str(lora) for lora in checkpoint.loras],
    }


def llms_txt(server: str | None = None) -> str:
    """The model spec for machines that read text (llmstxt.org), from the catalogue.

    With the address of a `server` also how it is called over HTTP.
    """
    blocks = [
        "# sdxl-lightning-mcp",
        "> An MCP server that gives agents pictures. The tool `generate_image` turns a prompt into "
        "a JPEG that the agent can see and a file that the person can open; `get_image` waits for "
        "a picture that takes longer than a call may, and shows an earlier one again.",
        "Every picture carries the parameters that made it; the same parameters and seed make the "
        "same picture again. Unknown fields and impossible values are refused with the cure.",
    ]
    blocks += [model_text(model) for model in CATALOGUE.values()]
    blocks += [http_text(server or "http://127.0.0.1:8000")]
    skill_address = f"{server}{SKILL_PATH}" if server else SKILL.as_posix()
    blocks += [
        "## Resources",
        "- `sdxl-lightning://models/{model}`: this for the served model, as JSON\n"
        "- `sdxl-lightning://runs`: the newest runs, with ids, parameters and files\n"
        "- `sdxl-lightning://runs/{id}`, `sdxl-lightning://runs/{id}/image`: the facts of a run, "
        "and its whole JPEG file",
        "## Prompts",
        "- `picture`, `variations`, `series`: from an idea to a picture, the next seeds of one, "
        "several in one style",
        "## Skill",
        f"- [SKILL.md]({skill_address}): how an agent should use the tools; "
        "served as skill://sdxl-lightning/SKILL.md",
    ]
    return "\n\n".join(blocks) + "\n"


def model_text(model: Model) -> str:
    """One model's part of llms.txt."""
    sizes = ", ".join(f"{width}x{height}" for width, height in model.sizes)
    last = (
        f"Sizes that work best: {sizes}; at most {model.max_pixels:,} pixels. "
        f"Weights: {model.checkpoint.name}, made for {model.checkpoint.steps} steps and "
        f"guidance {model.checkpoint.guidance:g}. Licence: {model.checkpoint.license}."
    )
    return "\n\n".join([f"## {model.title}", model.summary, _fields_table(model), last])


def http_text(server: str) -> str:
    """How a server is called over HTTP (`sdxl-lightning-mcp serve`)."""
    lines = [
        "## Over HTTP",
        "`sdxl-lightning-mcp serve` offers the same runs over HTTP. Where it has keys, send "
        "`Authorization: Bearer sdxl_...`.",
        "\n".join(
            [
                f"- MCP: {server}/mcp (streamable HTTP); {server}/sse for clients that need it",
                f"- [OpenAPI 3.1]({server}/api/openapi.public.json)",
                '- `POST /v1/models/{model}/runs` with `{"input": {"prompt": ...}}`: the run; '
                "`Prefer: wait=60` waits for its end (201), otherwise 202 at once",
                "- `GET /v1/runs/{id}`, `/v1/runs/{id}/events` (server-sent events), "
                "`/v1/runs/{id}/image`, `POST /v1/runs/{id}/cancel`, `DELETE /v1/runs/{id}`",
                '- `POST /v1/models/{model}/batches` with `{"inputs": [...]}`: 1 to 100 runs',
                "- `POST /v1/images/generations`: as OpenAI's clients call it",
                "- `Idempotency-Key` makes repeating a POST safe; errors are problem+json with a "
                "stable `code`; 429 and 503 say when to come again (`Retry-After`)",
            ]
        ),
    ]
    return "\n\n".join(lines)


def skill_folder() -> Path:
    """Where the skill lies: in the wheel beside the package, in a checkout at its root."""
    for root in (PACKAGE, PACKAGE.parents[1]):
        if (root / SKILL).is_file():
            return (root / SKILL).parent
    raise FileNotFoundError(f"{SKILL} is missing. Install the package again.")


def skill() -> str:
    """The text of SKILL.md."""
    return (skill_folder() / SKILL.name).read_text("utf-8")


def skill_description() -> str:
    """What the skill says of itself: when an agent should read it."""
    found = re.search(r"^description: (.+)$", skill(), re.MULTILINE)
    assert found
    return found[1]


def _fields_table(model: Model) -> str:
    schema = request_schema(model)
    rows = ["| field | type | allowed | default | what it does |", "|---|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if "minimum" in field:
            grid = f", multiples of {field['multipleOf']}" if "multipleOf" in field else ""
            allowed = f"{field['minimum']} to {field['maximum']}{grid}"
        else:
            allowed = f"up to {field['maxLength']:,} characters"
        default = "required" if name in schema["required"] else field.get("default", "left out")
        rows.append(
            f"| {name} | {field['type']} | {allowed} | {default} | {field['description']} |"
        )
    return "\n".join(rows)
