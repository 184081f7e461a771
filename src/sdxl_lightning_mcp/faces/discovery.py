"""What agents read about us: the model spec, llms.txt, and the skill."""

from pathlib import Path
from typing import Any

from sdxl_lightning_mcp.catalogue import CATALOGUE, PACKAGE
from sdxl_lightning_mcp.checkpoint import Checkpoint, Model
from sdxl_lightning_mcp.request import request_schema

SKILL = Path("skills", "sdxl-lightning", "SKILL.md")


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


def llms_txt() -> str:
    """The model spec for machines that read text (llmstxt.org), from the catalogue."""
    blocks = [
        "# sdxl-lightning-mcp",
        "> An MCP server that gives agents pictures. The tool `generate_image` turns a prompt into "
        "a JPEG that the agent can see and a file that the person can open; `get_image` waits for "
        "a picture that takes longer than a call may, and shows an earlier one again.",
        "Every picture carries the parameters that made it; the same parameters and seed make the "
        "same picture again. Unknown fields and impossible values are refused with the cure.",
    ]
    for model in CATALOGUE.values():
        blocks += [f"## {model.title}", model.summary, _fields_table(model)]
        sizes = ", ".join(f"{width}x{height}" for width, height in model.sizes)
        blocks.append(
            f"Sizes that work best: {sizes}; at most {model.max_pixels:,} pixels. "
            f"Weights: {model.checkpoint.name}, made for {model.checkpoint.steps} steps and "
            f"guidance {model.checkpoint.guidance:g}. Licence: {model.checkpoint.license}."
        )
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
        f"- [SKILL.md]({SKILL.as_posix()}): how an agent should use the tools; "
        "served as skill://sdxl-lightning/SKILL.md",
    ]
    return "\n\n".join(blocks) + "\n"


def skill_folder() -> Path:
    """Where the skill lies: in the wheel beside the package, in a checkout at its root."""
    for root in (PACKAGE, PACKAGE.parents[1]):
        if (root / SKILL).is_file():
            return (root / SKILL).parent
    raise FileNotFoundError(f"{SKILL} is missing. Install the package again.")


def skill() -> str:
    """The text of SKILL.md."""
    return (skill_folder() / SKILL.name).read_text("utf-8")


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
