"""How much of everything a run does: `full` made the weights that ship, `smoke` is for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """The sizes of one run; steps are optimizer steps, batches are per process."""

    scenes: int  # places rendered for the UNet at the usual size; of other sizes there are fewer
    moved_objects: int  # at a side or of another size
    usual_copies: int  # of an object whose colours a caption need not say: "a house"
    codec_pictures: int  # renders the codec is fitted to
    captions: int  # captions the tokenizer is learnt from
    merges: int  # pairs the tokenizer learns to join
    unet_steps: int  # at a constant rate
    cooldown_steps: int  # while the rate falls to zero
    unet_batch: int
    snapshot_steps: int  # a checkpoint is written after so many steps
    decoder_steps: tuple[int, int, int]  # at a quarter, on crops of 512 px, on whole pictures
    encoder_steps: int
    finetune_steps: tuple[int, int, int]  # likewise; nothing holds the level of a quarter any more


PRESETS = {
    "full": Preset(
        scenes=18_000,
        moved_objects=3_000,
        usual_copies=30,
        codec_pictures=1_600,
        captions=20_000,
        merges=420,
        unet_steps=6_000,
        cooldown_steps=900,
        unet_batch=24,
        snapshot_steps=400,
        decoder_steps=(700, 450, 60),
        encoder_steps=300,
        finetune_steps=(0, 450, 250),
    ),
    "smoke": Preset(
        scenes=96,
        moved_objects=32,
        usual_copies=8,
        codec_pictures=48,
        captions=2_000,
        merges=420,
        unet_steps=4,
        cooldown_steps=4,
        unet_batch=4,
        snapshot_steps=4,
        decoder_steps=(2, 1, 1),
        encoder_steps=2,
        finetune_steps=(0, 1, 1),
    ),
}
