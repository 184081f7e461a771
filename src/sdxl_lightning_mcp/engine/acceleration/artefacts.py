"""Compiled calls: made in the background by a process of their own, and kept on disk.

A compiled call holds no weights, they are inputs like the others. So one serves every checkpoint
of an architecture, and weights may come and go.
"""

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
import torch

from sdxl_lightning_mcp.checkpoint import Checkpoint
from sdxl_lightning_mcp.engine.acceleration.calls import Form
from sdxl_lightning_mcp.engine.tuning import Tuning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What a call is compiled from: which `part` of a checkpoint, and what goes in.

    `config` is the network's own configuration.
    """

    part: str
    checkpoint: Checkpoint
    tuning: Tuning
    config: dict[str, Any]
    weights: tuple[Form, ...]
    inputs: tuple[Form, ...]

    @cached_property
    def file_name(self) -> str:
        """A name that changes with everything that the compiled code depends on."""
        device = self.tuning.device
        processor = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else sorted(torch.cpu.get_capabilities().items())
        )
        ours, theirs = version("sdxl-lightning-mcp"), version("diffusers")
        told = [ours, theirs, torch.__version__, processor, self.config, self.weights, self.inputs]
        mark = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
        return f"{self.part}-{mark[:24]}.pt2"


class Artefacts:
    """Finds compiled calls, and has them made, one at a time.

    Without a compiler on the machine, or memory for it, there is none: the same is computed
    uncompiled.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(
            platformdirs.user_cache_dir("sdxl-lightning-mcp", appauthor=False), "compiled"
        )
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._failed: set[str] = set()
        self._making: tuple[str, subprocess.Popen[bytes]] | None = None

    def find(self, recipe: Recipe, *, make: bool) -> Callable[..., Any] | None:
        """A call that takes the weights as a list and then the inputs; None where there is none.

        Where none is on disk one is made, if it is worth it: `make`.
        """
        name = recipe.file_name
        if name in self._loaded:
            return self._loaded[name]
        self._look_after_the_making()
        if name in self._failed:
            return None
        if (self._folder / name).is_file():
            self._load(name, recipe.tuning.device)
        elif make and self._making is None:
            self._make(name, recipe)
        return self._loaded.get(name)

    def _load(self, name: str, device: torch.device) -> None:
        from torch._inductor import aoti_load_package

        index: Any = device.index
        try:
            self._loaded[name] = aoti_load_package(
                str(self._folder / name),
                # One thread calls, and a CUDA graph cannot record what would make others wait.
                run_single_threaded=True,
                device_index=-1 if index is None else index,
            )
        except (RuntimeError, OSError) as error:
            self._give_up(name, f"it cannot be loaded: {str(error).splitlines()[0]}")

    def _make(self, name: str, recipe: Recipe) -> None:
        """Starts the process; it ends with this one, since its stdin does."""
        command = [sys.executable, "-P", "-m", "sdxl_lightning_mcp.engine.acceleration.compiling"]
        try:
            # What is loaded from there is run: nobody else may write into it.
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._log(name).open("wb") as told:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.STDOUT
                )
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((recipe, self._folder / name, self._log(name))))
            process.stdin.flush()
        except OSError as error:
            self._give_up(name, str(error))
            return
        log.info("compiling the %s in the background", recipe.part)
        self._making = name, process

    def _look_after_the_making(self) -> None:
        if self._making is None or self._making[1].poll() is None:
            return
        name, process = self._making
        self._making = None
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode or not (self._folder / name).is_file():
            self._give_up(name, f"what the compiler said is in {self._log(name)}")
        else:
            self._log(name).unlink(missing_ok=True)

    def _give_up(self, name: str, reason: str) -> None:
        log.warning("not compiled, so slower: %s", reason)
        self._failed.add(name)

    def _log(self, name: str) -> Path:
        return (self._folder / name).with_suffix(f".{os.getpid()}.log")
