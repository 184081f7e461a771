"""What is held of a model: its networks, where there is memory for them, and one UNet at a time."""

import logging
from dataclasses import replace

import torch
from torch import nn

from sdxl_lightning_mcp.checkpoint import Checkpoint
from sdxl_lightning_mcp.engine.acceleration.artefacts import Artefacts
from sdxl_lightning_mcp.engine.acceleration.execution import Execution
from sdxl_lightning_mcp.engine.acceleration.graphs import Capture, CudaCapture
from sdxl_lightning_mcp.engine.acceleration.readiness import make_ready
from sdxl_lightning_mcp.engine.lora import read_changes
from sdxl_lightning_mcp.engine.memory import (
    Residence,
    Tier,
    choose_tier,
    free_memory,
    release_memory,
)
from sdxl_lightning_mcp.engine.prompts import PromptEncoder
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.engine.weights import (
    ENCODERS,
    Networks,
    build_networks,
    build_unet,
    check_unet,
    fill_networks,
    fill_unet,
    measure,
)
from sdxl_lightning_mcp.hub import verify

log = logging.getLogger(__name__)


class Holding:
    """A model's networks with their weights; they may be away for a while, and come back.

    `checkpoint` is the one whose UNet is held. `tuning` says where, and how much of it. Compiled
    calls are in `artefacts`; with a `capture` calls are recorded and replayed, as CUDA's are.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        networks: Networks,
        tuning: Tuning,
        artefacts: Artefacts | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.tuning = tuning
        self._networks: Networks | None = make_ready(networks, tuning)
        self._prompts: PromptEncoder | None = None
        self._execution: Execution | None = None
        self._executions = 0
        self._artefacts = artefacts or Artefacts()
        self._capture = capture
        self._away: list[Residence] = []

    @classmethod
    def open(cls, checkpoint: Checkpoint, tuning: Tuning) -> "Holding":
        """Opens verified files; what lies on the device follows from its free memory.

        Raises:
            WeightsError: A file cannot be opened or does not fit.
            DeviceMemoryError: The device has too little memory.
        """
        networks = build_networks(checkpoint)
        needs, free = measure(networks, checkpoint, tuning), free_memory(tuning.device)
        tier = choose_tier(needs, free, tuning.device.type, tuning.tier)
        tuning = tuning.at(tier)
        fill_networks(networks, checkpoint, tuning)
        capture = CudaCapture(tuning.device) if tuning.graphs else None
        return cls(checkpoint, networks, tuning, capture=capture)

    @property
    def networks(self) -> Networks:
        """The networks, with their weights where they belong."""
        while self._away:
            self._away[-1].bring()
            self._away.pop()
        if self._networks is None:
            # A run is in inference mode, and weights born there could not be moved later.
            with torch.inference_mode(False):
                networks = build_networks(self.checkpoint)
                fill_networks(networks, self.checkpoint, self.tuning)
                self._networks = make_ready(networks, self.tuning)
        return self._networks

    @property
    def execution(self) -> Execution:
        """What calls these networks."""
        networks = self.networks
        if self._execution is None:
            self._executions += 1
            self._execution = Execution(
                networks, self.checkpoint, self.tuning, self._artefacts, self._capture
            )
        return self._execution

    @property
    def way(self) -> tuple[int, int]:
        """Other numbers as soon as the device computes in another way than before."""
        version = self.execution.version
        return self._executions, version

    @property
    def prompts(self) -> PromptEncoder:
        """What encodes prompts with these networks."""
        networks = self.networks
        if self._prompts is None:
            self._prompts = PromptEncoder(
                networks.tokenizers,
                networks.text_encoders,
                self.checkpoint.prompt_chunks,
                self.tuning,
            )
        return self._prompts

    @torch.inference_mode(False)
    def take_up(self, wanted: Checkpoint) -> None:
        """Holds that checkpoint's UNet from now on; where it cannot be had, the old one stays.

        Raises:
            WeightsError: A file is not here, not right, or does not fit.
        """
        if wanted == self.checkpoint:
            return
        verify(wanted.all_files, lambda transfer: log.info("%s", transfer), wanted.name)
        check_unet(wanted)
        unet = build_unet(wanted)
        encoders = dict(zip(ENCODERS, self.networks.text_encoders, strict=True))
        changes = read_changes(wanted.loras, {"unet": unet, **encoders})["unet"]
        # The old one is let go before the new one comes: two do not fit.
        self._networks, self._execution = replace(self.networks, unet=unet), None
        release_memory(self.tuning.device)
        try:
            fill_unet(unet, wanted, self.tuning, changes)
            make_ready(self._networks, self.tuning)
        except BaseException:
            # Half a UNet is none: the next run opens the old one again.
            self._let_go()
            raise
        self.checkpoint = wanted

    def rest(self) -> None:
        """Lets go of the weights until the next run: a GPU's go to host memory, a CPU's to disk."""
        if self._networks is None or self._away:
            return
        device, networks = self.tuning.device, self._networks
        if device.type == "cpu":
            self._let_go()
            return
        movable: list[nn.Module] = [networks.vae]
        if self.tuning.tier < Tier.PARKED:
            movable += networks.text_encoders
        if self.tuning.tier < Tier.STREAMED:
            movable.append(networks.unet)
        self.execution.let_go()
        self._away = [Residence(network, device) for network in movable]
        for residence in self._away:
            residence.leave()
        release_memory(device)

    def step_down(self) -> bool:
        """Holds less on the device from now on; False where less is not possible."""
        if self.tuning.tier is Tier.STREAMED:
            return False
        self.tuning = self.tuning.at(Tier(self.tuning.tier + 1))
        if not self.tuning.graphs:
            self._capture = None
        log.warning("out of memory on the device; from now on: %s", self.tuning.tier)
        self._let_go()
        return True

    def _let_go(self) -> None:
        self._networks, self._prompts, self._execution, self._away = None, None, None, []
        release_memory(self.tuning.device)
