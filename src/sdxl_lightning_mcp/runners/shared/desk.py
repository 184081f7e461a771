"""The servers around a shared engine: who they are, whose runs are whose, what each is told."""

import contextlib
import logging
import math
import os
import pickle
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from itertools import count

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from sdxl_lightning_mcp.run import (
    Admitted,
    Canceled,
    DeviceEvent,
    Event,
    Failed,
    Finished,
    Loading,
    NotReady,
    Queued,
    Ready,
    Rested,
    RunEvent,
)
from sdxl_lightning_mcp.runners.shared.places import Facts, Place
from sdxl_lightning_mcp.runners.shared.turns import Turns
from sdxl_lightning_mcp.runners.wire import GREETING, LENGTH, Attach, Cancel, Order, Submit, frame

log = logging.getLogger(__name__)

# So long it waits for the server that started it, and for others to hear its last word.
PATIENCE = 30.0
GONE = (
    anyio.IncompleteRead,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


@dataclass(eq=False)
class _Server:
    """A server that is attached; what it is to hear waits in its outbox, so that nobody waits."""

    outbox: MemoryObjectSendStream[bytes]

    def tell(self, event: Event) -> None:
        # One that has just gone hears no more.
        with contextlib.suppress(*GONE):
            self.outbox.send_nowait(frame(event))


@dataclass(eq=False)
class _Entry:
    """A run of a server, which knows it as `run_id`; `told` is how many it knows ahead of it."""

    server: _Server
    run_id: str
    round: int
    begun: bool = False
    told: int | None = None


class Desk:
    """Between the servers and the engine: orders go in, and events go to whom they concern.

    All of it happens in one thread. `order` gives the engine an order.
    """

    def __init__(self, place: Place, order: Callable[[Order], None]) -> None:
        self._place, self._order = place, order
        self._servers: set[_Server] = set()
        self._attached: Attach | None = None
        self._linger = 0.0
        # By the names under which the engine knows them, in the order of their arrival.
        self._runs: dict[str, _Entry] = {}
        self._names = count()
        self._turns = Turns()
        # What a newcomer is told: how far the device is, and that it rests if it does.
        self._ready: Ready | None = None
        self._latest: DeviceEvent = Loading("starting")
        self._moved = anyio.Event()

    async def open(self, *, task_status: TaskStatus[None]) -> None:
        """Listens, and serves until it is idle; then the process ends."""
        async with (
            await anyio.create_unix_listener(self._place.socket, mode=0o600) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._end_when_left)
            task_status.started()
            await listener.serve(self._serve, tasks)

    async def close(self) -> None:
        """Lets everyone hear what was said last, and takes nobody in any more."""
        self._place.socket.unlink(missing_ok=True)
        for server in self._servers:
            server.outbox.close()
        with anyio.move_on_after(PATIENCE):
            while self._servers:
                await self._moved.wait()

    # --- servers ---------------------------------------------------------------------------

    async def _serve(self, stream: SocketStream) -> None:
        """One server, from its coming to its going."""
        outbox, inbox = anyio.create_memory_object_stream[bytes](math.inf)
        server = _Server(outbox)
        self._come(server)
        try:
            async with stream, outbox, inbox, anyio.create_task_group() as tasks:
                tasks.start_soon(_pass_on, inbox, stream)
                async for order in _orders(stream):
                    self._take(server, order)
                tasks.cancel_scope.cancel()
        except Exception:
            # Whatever one server does, the others go on.
            log.exception("a server is let go")
        finally:
            self._go(server)

    def _come(self, server: _Server) -> None:
        self._servers.add(server)
        server.outbox.send_nowait(GREETING)
        for event in dict.fromkeys((self._ready, self._latest)):
            if event is not None:
                server.tell(event)
        self._tell_facts()

    def _take(self, server: _Server, order: Order) -> None:
        match order:
            case Attach(assignment, linger_seconds):
                self._linger = max(self._linger, linger_seconds)
                if self._attached is None:
                    self._attached = order
                    self._order(assignment)
                log.info("a server has come; %d are here", len(self._servers))
                self._tell_facts()
            case Submit(run_id, parameters):
                name, round = str(next(self._names)), self._turns.take(server)
                self._runs[name] = _Entry(server, run_id, round)
                self._order(Submit(name, parameters, round))
                self._tell_places()
            case Cancel(run_id):
                for name, entry in self._runs.items():
                    if entry.server is server and entry.run_id == run_id:
                        self._order(Cancel(name))
            case _:
                log.error("an order that is for others: %s", type(order).__name__)

    def _go(self, server: _Server) -> None:
        self._servers.discard(server)
        left = [name for name, entry in self._runs.items() if entry.server is server]
        log.info(
            "a server has left, and %d runs with it; %d are here", len(left), len(self._servers)
        )
        for name in left:
            del self._runs[name]
            self._order(Cancel(name))
        self._tell_places()
        self._tell_facts()

    async def _end_when_left(self) -> None:
        """Ends the process when nobody is there any more, and nobody came meanwhile."""
        while True:
            patience = self._linger if self._attached else PATIENCE
            if self._servers:
                await self._moved.wait()
                continue
            with anyio.move_on_after(patience):
                await self._moved.wait()
                continue
            log.info("nobody is left")
            try:
                self._place.clear()
                self._place.log.unlink(missing_ok=True)
            finally:
                os._exit(0)

    # --- the engine ------------------------------------------------------------------------

    async def hear(self, event: Event) -> None:
        """Something that the engine says."""
        match event:
            case Loading() | Ready() | Rested() | NotReady():
                self._ready = event if isinstance(event, Ready) else self._ready
                self._tell_all(event)
            case _:
                self._hear_of_run(event)

    def _hear_of_run(self, event: RunEvent) -> None:
        entry = self._runs.get(event.run_id)
        if entry is None:  # its server is gone
            return
        match event:
            case Admitted():
                log.info("a run is begun")
                entry.begun = True
                self._turns.begin(entry.round)
                if self._ready is not None and self._latest is not self._ready:
                    self._tell_all(self._ready)  # it rests no more
            case Finished() | Failed() | Canceled():
                del self._runs[event.run_id]
            case _:
                pass
        entry.server.tell(replace(event, run_id=entry.run_id))
        self._tell_places()

    # --- what is told ----------------------------------------------------------------------

    def _tell_all(self, event: DeviceEvent) -> None:
        self._latest = event
        for server in self._servers:
            server.tell(event)

    def _tell_places(self) -> None:
        """Says to those who wait behind another server's runs how many are ahead of them."""
        # As the engine does it: the oldest of the lowest round.
        line = sorted(self._runs.values(), key=lambda entry: (not entry.begun, entry.round))
        owners: set[_Server] = set()
        for ahead, entry in enumerate(line):
            owners.add(entry.server)
            if entry.begun or ahead == entry.told or (len(owners) == 1 and entry.told is None):
                continue
            entry.told = ahead
            entry.server.tell(Queued(entry.run_id, ahead))

    def _tell_facts(self) -> None:
        """Writes for people what this process is, and wakes who waits for servers to change."""
        self._moved.set()
        self._moved = anyio.Event()
        if self._attached is not None:
            told = self._attached.assignment
            facts = Facts(os.getpid(), told.model.slug, told.device.name, len(self._servers))
            # Nobody's picture depends on that.
            with contextlib.suppress(OSError):
                self._place.tell(facts)


async def _orders(stream: SocketStream) -> AsyncIterator[Order]:
    """What a server says, until it is gone, perhaps in the middle of a word."""
    words = BufferedByteReceiveStream(stream)
    try:
        while True:
            (length,) = LENGTH.unpack(await words.receive_exactly(LENGTH.size))
            yield pickle.loads(await words.receive_exactly(length))
    except GONE:
        return


async def _pass_on(inbox: MemoryObjectReceiveStream[bytes], stream: SocketStream) -> None:
    """Sends what is said to a server, at the server's own pace."""
    try:
        async for message in inbox:
            await stream.send(message)
        # Nothing is said any more.
        await stream.aclose()
    except GONE:
        return
