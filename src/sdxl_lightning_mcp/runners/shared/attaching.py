"""A shared worker from the outside: found, or started where there is none."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import SocketStream

from sdxl_lightning_mcp.errors import RunFailedError
from sdxl_lightning_mcp.runners.process import Worker, WorkerProcess, environment
from sdxl_lightning_mcp.runners.shared.places import Place, place_of
from sdxl_lightning_mcp.runners.wire import GREETING, LISTENING, TAKEN, Assignment, Attach

PATIENCE = 60.0
# Between two tries while another worker is about to listen, or about to be gone.
PAUSE = 0.05


class SharedWorker(Worker):
    """A worker that other servers use too, over a socket; `end` only leaves it."""

    def __init__(self, stream: SocketStream, place: Place) -> None:
        super().__init__(stream, stream)
        self._stream = stream
        self.log_place = f"Its log {place.log}"

    @classmethod
    async def find(cls, place: Place, attach: Attach) -> "SharedWorker | None":
        """The worker that listens there, attached to; None where none does."""
        try:
            stream = await anyio.connect_unix(place.socket)
        except OSError:
            return None
        worker = cls(stream, place)
        try:
            # One that is about to end may have taken the connection in and never look at it.
            await worker._events.receive_exactly(len(GREETING))
            await worker.send(attach)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            await worker.end()
            return None
        except BaseException:
            await worker.end()
            raise
        return worker

    async def end(self) -> str:
        """Leaves the worker, which lets go of what it draws for this server."""
        await anyio.aclose_forcefully(self._stream)
        return "it says no more"


@dataclass(frozen=True)
class Sharing:
    """How this process shares workers with others: where they meet, and what must agree.

    `environment` is what of the environment must be equal, `linger_seconds` how long a worker
    stays when nobody is there any more. One that does not answer for `patience` seconds never will.
    """

    folder: Path
    environment: Mapping[str, str]
    linger_seconds: float
    # While it imports torch it hears nothing for seconds.
    patience: float = PATIENCE

    async def attach(self, assignment: Assignment) -> Worker:
        """The worker that has this assignment already, or one that is started now and stays.

        Raises:
            RunFailedError: There is one that does not answer, or none can be started.
        """
        place = await anyio.to_thread.run_sync(self._place, assignment)
        attach = Attach(assignment, self.linger_seconds)
        with anyio.move_on_after(self.patience):
            while True:
                if worker := await SharedWorker.find(place, attach):
                    return worker
                said = await anyio.to_thread.run_sync(
                    _start, place, assignment, abandon_on_cancel=True
                )
                if said == TAKEN:
                    await anyio.sleep(PAUSE)
                elif said != LISTENING:
                    raise RunFailedError(
                        "The shared engine ended before it could be reached. "
                        f"Its log {place.log} may say why; --private does without it."
                    )
        there = place.told()
        who = f"process {there.pid}" if there else "a process"
        cure = f"kill -9 {there.pid}" if there else f"end whoever holds {place.lock}"
        raise RunFailedError(
            f"The shared engine does not answer ({who}). Its log {place.log} may say "
            f"why. End it: {cure}; or start with --private."
        )

    async def join(self, assignment: Assignment) -> Worker:
        """The worker that has this assignment already; where there is none, a process of one's own.

        Raises:
            OSError: None can be started.
        """
        place = await anyio.to_thread.run_sync(self._place, assignment)
        with anyio.move_on_after(self.patience):
            if worker := await SharedWorker.find(place, Attach(assignment, 0)):
                return worker
        return await WorkerProcess.start(assignment)

    def _place(self, assignment: Assignment) -> Place:
        return place_of(self.folder, assignment, self.environment)


def _start(place: Place, assignment: Assignment) -> bytes:
    """Starts a worker, and returns what it says: that it listens, or that there is another."""
    module = "sdxl_lightning_mcp.runners.shared.worker"
    command = [sys.executable, "-P", "-m", module, str(place.folder), place.key]
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Through a shell that ends at once: so the worker is nobody's child, in a session of its
        # own, and outlives whoever started it. It closes stdout when it listens.
        return subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(assignment),
            start_new_session=True,
            timeout=PATIENCE,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return b""
    finally:
        os.close(log)
