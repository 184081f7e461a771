"""What runs inside a worker process: it owns one device, and torch is imported only here.

It talks with its parent over its stdin and stdout. When stdin ends, however the parent came to its
end, the worker is gone at once.
"""

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.hub import Transfer, fetch, verify
from sdxl_lightning_mcp.run import Event, Loading, NotReady, Ready, Rested
from sdxl_lightning_mcp.runners.wire import LENGTH, Assignment, Cancel, Order, Submit, frame

if TYPE_CHECKING:
    from sdxl_lightning_mcp.engine.engine import Engine

TELL_SECONDS = 0.25


def main() -> None:
    """Serves its parent until stdin ends."""
    # A Ctrl-C in the terminal reaches the whole group; the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s worker: %(message)s")
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    wire = _claim_stdout()
    threading.Thread(target=_read_orders, args=(sys.stdin.buffer, orders), daemon=True).start()

    def say(event: Event) -> None:
        wire.write(frame(event))
        wire.flush()

    try:
        serve(orders, say)
    except BaseException:
        logging.exception("the worker ends")
    # At once: an orderly end would wait for the thread that waits for orders.
    os._exit(1)


def _claim_stdout() -> BinaryIO:
    """Keeps the pipe for frames alone: what others print goes to stderr."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return wire


def _read_orders(stdin: BinaryIO, orders: queue.SimpleQueue[Order]) -> None:
    """Reads orders in a thread of its own, since torch may be busy for long."""
    try:
        while header := stdin.read(LENGTH.size):
            orders.put(pickle.loads(stdin.read(LENGTH.unpack(header)[0])))
    finally:
        # The parent is gone, perhaps in the middle of a word: nobody waits for what is under way.
        os._exit(0)


def serve(orders: queue.SimpleQueue[Order], say: Callable[[Event], None]) -> None:
    """Opens the model, then lets the engine turn; orders are looked at between two turns.

    The first of them is the assignment. Returns when the device cannot be made ready, once that
    is said.
    """
    assignment = orders.get()
    assert isinstance(assignment, Assignment)
    logging.getLogger().setLevel(assignment.log_level.upper())
    # At "info" they tell of every request to the hub.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        engine = _open(assignment, say)
    except SdxlLightningError as error:
        say(NotReady(error))
        return
    except Exception as error:
        logging.exception("the worker cannot start")
        say(NotReady(RunFailedError(f"The worker cannot start: {error}")))
        return
    # One run more than is computed together may wait at the door, so that the device never does.
    say(Ready(f"{engine.sdxl.tuning}", capacity=engine.max_batch + 1))
    patience = assignment.idle_seconds
    while True:
        while engine.idle or not orders.empty():
            try:
                order = orders.get(timeout=patience if engine.idle else None)
            except queue.Empty:
                engine.sdxl.held.rest()
                say(Rested())
                patience = None
                continue
            patience = assignment.idle_seconds
            if isinstance(order, Submit):
                engine.submit(order.run_id, order.parameters, order.round)
            elif isinstance(order, Cancel):
                for event in engine.cancel(order.run_id):
                    say(event)
        for event in engine.turn():
            say(event)


def _open(assignment: Assignment, say: Callable[[Event], None]) -> "Engine":
    """Gets and checks what is not here yet, and opens the model on its device."""
    model = assignment.model
    told = 0.0

    def tell(transfer: Transfer) -> None:
        nonlocal told
        # Chunks come faster than anyone reads.
        if time.monotonic() - told > TELL_SECONDS or transfer.done == 0:
            told = time.monotonic()
            say(Loading(str(transfer), transfer.share if transfer.doing == "fetching" else 0))

    fetch(model.checkpoint.all_files, tell, model.selector or model.slug)
    verify(model.checkpoint.all_files, tell, model.selector or model.slug)
    say(Loading("starting torch"))
    from sdxl_lightning_mcp.engine.engine import Engine
    from sdxl_lightning_mcp.engine.estimate import Estimator
    from sdxl_lightning_mcp.engine.memory import keep_memory
    from sdxl_lightning_mcp.engine.sdxl import Sdxl
    from sdxl_lightning_mcp.engine.tuning import share_cores, tune

    share_cores(assignment.device.sharers)
    tuning = tune(assignment.device.kind, assignment.speed)
    keep_memory(tuning.device)
    if tuning.device.type == "cpu" and hasattr(os, "nice"):
        # The server and its clients need the cores for moments only, and then at once.
        os.nice(5)
    say(Loading(f"opening {model.checkpoint.name}"))
    sdxl = Sdxl.open(model.checkpoint, tuning, model.checkpoints)
    estimator = Estimator(sdxl) if sdxl.takes_minutes else None
    return Engine(sdxl, assignment.max_batch, estimator, assignment.preview_bytes)


if __name__ == "__main__":
    main()
