"""Puts the trained parts together and writes the pipeline folder that ships."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from architecture import build_scheduler, build_vae
from codec import PatchCodec
from decoder import start_linear
from diffusers import StableDiffusionXLPipeline
from learner import put_weights
from stage_decoder import load_average
from stage_unet import load_trained

BYTES_LIMIT = 14_000_000  # of all weights together


def build_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Build the pipeline from the newest checkpoints in a work folder, in float32."""
    model = load_trained(folder)
    torch.manual_seed(1)
    vae = build_vae()
    start_linear(vae, PatchCodec.load(folder / "codec.npz"))
    for name in ("decoder-finetune", "decoder"):
        if (folder / f"{name}.pt").exists():
            put_weights(vae.decoder, load_average(folder, name))
            break
    if (folder / "encoder.pt").exists():
        put_weights(vae.encoder, load_average(folder, "encoder"))
    return StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=model.tokenizer,
        tokenizer_2=model.tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def export(folder: Path, output: Path) -> None:
    """Write the pipeline to `output` as float16 safetensors, and say how large it is."""
    pipeline = build_pipeline(folder).to(torch.float16)
    pipeline.save_pretrained(output, safe_serialization=True)
    _forget_paths(output)
    sizes = {path: path.stat().st_size for path in sorted(output.rglob("*.safetensors"))}
    for path, size in sizes.items():
        print(f"{size:>12,}  {path.relative_to(output)}")
    total = sum(sizes.values())
    print(f"{total:>12,}  bytes of weights in {output}")
    if total > BYTES_LIMIT:
        raise SystemExit(f"the weights are larger than {BYTES_LIMIT:,} bytes")


def _forget_paths(output: Path) -> None:
    """Take the folder that something was loaded from out of the configuration files."""
    for path in output.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        dropped = [config.pop(key) for key in ("_name_or_path", "name_or_path") if key in config]
        if dropped:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
