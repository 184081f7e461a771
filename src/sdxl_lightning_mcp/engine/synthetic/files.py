"""SDXL base's repository, laid out as the real one is."""

import json
from pathlib import Path

from sdxl_lightning_mcp.engine.synthetic import scale
from sdxl_lightning_mcp.engine.synthetic.scale import SMALL, Scale
from sdxl_lightning_mcp.engine.synthetic.weights import FROM_PYTORCH, seeded, write
from sdxl_lightning_mcp.engine.synthetic.words import tokenizer_files, write_tokenizer

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
VAE = "vae/diffusion_pytorch_model.fp16.safetensors"
TEXT_ENCODER = "text_encoder/model.fp16.safetensors"
TEXT_ENCODER_2 = "text_encoder_2/model.fp16.safetensors"


def write_base(folder: Path, seed: int = 0, size: Scale = SMALL, safe_vae: bool = False) -> None:
    """The base repository's fp16 set: all that `from_pretrained(variant="fp16")` reads.

    `safe_vae` says that its VAE may be called in float16, as that one may which SDXL-Lightning is
    drawn with here.
    """
    configs = scale.base_configs(size)
    configs["vae/config.json"]["force_upcast"] = not safe_vae
    for path, content in configs.items():
        write_json(folder / path, content)
    words = tokenizer_files()
    for tokenizer in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / tokenizer, words)
    # The encoders are louder than untrained ones, so that other words give another picture.
    parts = (
        (UNET, scale.unet(size), 1.0),
        (VAE, scale.vae(size), 1.0),
        (TEXT_ENCODER, scale.text_encoder(size), 3.0),
        (TEXT_ENCODER_2, scale.text_encoder_2(size), 3.0),
    )
    for offset, (path, shapes, gain) in enumerate(parts):
        write(folder / path, seeded(shapes, 10 * seed + offset, gain), FROM_PYTORCH)


def write_json(path: Path, content: scale.Json) -> None:
    """A configuration as diffusers writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
