"""All that can be set: names, values, what is allowed, and what is said of each."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from sdxl_lightning_mcp.ids import REGION

PREFIX = "SDXL_LIGHTNING_"
# Of `ray`: a cluster of this machine alone.
LOCAL = "local"
DEVICES = r"auto|cuda|mps|cpu(,cpu)*|cuda:(0|[1-9]\d*)(,cuda:(0|[1-9]\d*))*"


class Speed(StrEnum):
    """How much a picture may differ from the exact one, for the sake of speed."""

    EXACT = "exact"
    NORMAL = "normal"
    FAST = "fast"
    DRAFT = "draft"


class Settings(BaseModel):
    """All settings; each is an environment variable SDXL_LIGHTNING_NAME, and a flag wins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "auto",
        description=(
            "A name that `models` lists, a folder or a .safetensors file; auto is sd-xl-lightning "
            "where there is a GPU for it, else mini."
        ),
    )
    lora: tuple[str, ...] = Field(
        (),
        description=(
            "LoRAs to add, as PATH or PATH:SCALE; several with commas between them, or the flag "
            "several times."
        ),
    )
    vae: Literal["default", "tiny"] = Field(
        "default", description="tiny decodes with TAESDXL: faster, in less memory, less detailed."
    )
    speed: Speed = Field(
        Speed.NORMAL,
        description=(
            "exact computes every picture alone, and bit for bit the same each time; normal is "
            "equal to it up to rounding; fast also rounds more where the device gains by that "
            "(8-bit numbers on GPUs that multiply them, compiled calls on a CPU); draft is "
            "fast with --vae tiny."
        ),
    )
    output_dir: Path | None = Field(
        None, description="Where pictures go; else sdxl-lightning in your pictures folder."
    )
    connect: tuple[str, ...] = Field(
        (),
        description=(
            "Servers of ours that draw in this one's place, http://gpu-box:8000, several with "
            "commas between them: the nearest that is ready, and another where it is lost."
        ),
    )
    connect_token: str | None = Field(
        None, description="The key those servers ask for, as `keys add` made it."
    )
    data_dir: Path | None = Field(
        None, description="Where the record of runs is kept; else in your data folder."
    )
    device: str = Field(
        "auto",
        description=(
            "Where to run: cuda, mps or cpu; auto is the first of them that is here. auto and cuda "
            "are every GPU of 6 GB or more, with a worker each; cuda:1 is one, numbered as "
            "nvidia-smi does, cuda:0,cuda:1 are these, and cpu,cpu is two workers that share "
            "the cores."
        ),
    )
    preview_bytes: int = Field(
        100_000,
        ge=2_000,
        le=100_000,
        description="The most bytes of the JPEG a tool result carries; the file is always whole.",
    )
    wait_seconds: float = Field(
        45,
        ge=0,
        allow_inf_nan=False,
        description=(
            "After so long a tool call answers with the run's id instead of its picture, and "
            "get_image waits on: clients give up after a minute or more."
        ),
    )
    protocol: Literal["both", "handshake"] = Field(
        "both",
        description=(
            "Which eras of MCP are spoken over stdio; handshake is only that up to 2025-11-25, for "
            "clients that cannot deal with an answer to their probe for the newer one."
        ),
    )
    max_queue: int = Field(32, ge=1, le=10_000, description="How many runs may wait.")
    max_batch: int | None = Field(
        None,
        ge=1,
        le=16,
        description=(
            "The most runs that share one UNet call; up to how many it is worth it, the device "
            "learns. Left out it is 8 on an NVIDIA GPU and 1 elsewhere; exact is always 1."
        ),
    )
    idle_minutes: float = Field(
        10,
        ge=0,
        allow_inf_nan=False,
        description="After so long without a run the weights leave the device; 0 is never.",
    )
    private: bool = Field(
        False,
        description=(
            "Keeps an engine to itself; else servers over stdio with the same settings share one."
        ),
    )
    engine_idle_minutes: float = Field(
        10,
        ge=0,
        allow_inf_nan=False,
        description=(
            "So long after the last of its servers has ended the shared engine ends; 0 is at once."
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much is logged, on stderr."
    )

    host: str = Field(
        "127.0.0.1",
        description="`serve`: the address to listen at. Any but this machine's own needs keys.",
    )
    port: int = Field(8000, ge=0, le=65_535, description="`serve`: the port; 0 is any free one.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+$",
        description=(
            "`serve`: how clients reach the server, https://pictures.example.org, where a proxy "
            "stands before it; links begin with it."
        ),
    )
    region: str | None = Field(
        None,
        description=(
            "`serve`: where it stands, as eu or us-west-1, if others like it stand elsewhere; "
            "every answer and every run's id says so."
        ),
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="`serve`: the names by which it is reached, besides localhost; with commas."
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="`serve`: web pages of other origins that may call it, https://app.example.org.",
    )
    oauth_issuer: str | None = Field(
        None,
        pattern=r"^https?://",
        description="`serve`: the OAuth server whose access tokens (JWT) are accepted.",
    )
    oauth_audience: str | None = Field(
        None, description="`serve`: the audience those tokens must be for; else the public URL."
    )
    oauth_scope: str | None = Field(None, description="`serve`: a scope those tokens must have.")
    runs_per_minute: int = Field(
        0,
        ge=0,
        description="`serve`: how many runs a key may ask for in a minute; 0 is any number.",
    )
    queue_share: float = Field(
        1.0, gt=0, le=1, description="`serve`: the share of the queue that one key may fill."
    )
    price: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="`serve`: what a picture costs; in runs and usage.",
    )
    callback_secret: str | None = Field(
        None,
        pattern=r"^whsec_[A-Za-z0-9+/]{32,}=*$",
        description=(
            "`serve`: allows callbacks, and signs them (Standard Webhooks): whsec_ and at least 24 "
            "random bytes as base64."
        ),
    )
    callback_private: bool = Field(
        False, description="`serve`: callbacks may also go to private addresses, and without TLS."
    )
    link_minutes: float = Field(
        60, gt=0, allow_inf_nan=False, description="`serve`: how long links to pictures hold."
    )
    keep_runs: int = Field(
        10_000, ge=1, description="`serve`: how many finished runs are kept, with their pictures."
    )
    keep_days: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="`serve`: for how many days runs are kept; 0 is for ever.",
    )
    keep_gigabytes: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="`serve`: how much its pictures may take in all; 0 is any amount.",
    )
    disk_gigabytes: float = Field(
        1,
        ge=0,
        allow_inf_nan=False,
        description="`serve`: with less free for pictures it is not ready.",
    )
    drain_seconds: float = Field(
        25,
        ge=0,
        allow_inf_nan=False,
        description="`serve`: how long it goes on after SIGTERM; what is left waits for the next.",
    )
    ray: str | None = Field(
        None,
        pattern=r"^(local|auto|\S+:\d+)$",
        description=(
            "`serve`: on Ray Serve, one replica for each device: local starts it on this machine, "
            "auto or an address joins a cluster; needs the extra `ray`."
        ),
    )
    drain_lag_seconds: float = Field(
        5,
        ge=0,
        allow_inf_nan=False,
        description=(
            "`serve`: how much of that it still takes everything in, with /readyz failing, so that "
            "a balancer notices: its interval times the failures it waits for. Nothing where "
            "nobody asked /readyz in the last minute."
        ),
    )

    @field_validator("connect")
    @classmethod
    def _name_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not re.fullmatch(r"https?://[^/?#\s]+", url.rstrip("/")):
                raise PydanticCustomError(
                    "connect", "allowed: addresses as http://gpu-box:8000, without a path"
                )
        return tuple(dict.fromkeys(url.rstrip("/") for url in value))

    @field_validator("lora", "connect", "allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("device")
    @classmethod
    def _name_devices(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        joined = ",".join(names)
        if not re.fullmatch(DEVICES, joined) or (names[0] != "cpu" and len({*names}) < len(names)):
            raise PydanticCustomError(
                "device",
                "allowed: auto, cuda, mps, cpu; cuda:1 for one GPU, cuda:0,cuda:1 for these, each "
                "once; cpu,cpu for two workers",
            )
        return joined

    @field_validator("region")
    @classmethod
    def _name_region(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(REGION, value):
            raise PydanticCustomError(
                "region",
                "allowed: 1 to 20 small letters, digits and dashes in between, as eu or us-west-1",
            )
        return value

    @field_validator("device", "vae", "speed", "protocol", "log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
