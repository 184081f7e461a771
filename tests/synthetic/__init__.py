"""Small files with random weights that are laid out as SDXL's real ones are."""

from .files import write_all_in_one, write_base, write_taesdxl, write_unet, write_vae_fix
from .loras import lora_deltas, write_lora
from .strangers import (
    write_flux,
    write_lokr,
    write_refiner,
    write_sd2,
    write_sd15,
    write_sd15_lora,
)

__all__ = [
    "lora_deltas",
    "write_all_in_one",
    "write_base",
    "write_flux",
    "write_lokr",
    "write_lora",
    "write_refiner",
    "write_sd2",
    "write_sd15",
    "write_sd15_lora",
    "write_taesdxl",
    "write_unet",
    "write_vae_fix",
]
