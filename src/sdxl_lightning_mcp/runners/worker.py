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
from collections.abc import Iterator
from typing import BinaryIO

from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.run import Event, Loading, NotReady, Ready
from sdxl_lightning_mcp.runners.wire import LENGTH, Assignment, Cancel, Order, Submit, frame


def main() -> None:
    """Serves its parent until stdin ends."""
    # A Ctrl-C in the terminal reaches the whole group; the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    wire = _claim_stdout()
    threading.Thread(target=_read_orders, args=(sys.stdin.buffer, orders), daemon=True).start()
    try:
        for event in _serve(orders):
            wire.write(frame(event))
            wire.flush()
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


def _serve(orders: queue.SimpleQueue[Order]) -> Iterator[Event]:
    """Opens the model, then lets the engine turn; orders are looked at between two turns."""
    assignment = orders.get()
    assert isinstance(assignment, Assignment)
    logging.basicConfig(
        level=assignment.log_level.upper(), format="%(levelname)s worker: %(message)s"
    )
    try:
        yield Loading("starting torch")
        from sdxl_lightning_mcp.engine.engine import Engine
        from sdxl_lightning_mcp.engine.sdxl import Sdxl
        from sdxl_lightning_mcp.engine.tuning import tune
        from sdxl_lightning_mcp.engine.weights import verify

        tuning = tune(assignment.device)
        checkpoint = assignment.model.checkpoint
        for path in verify(checkpoint):
            yield Loading(f"opening {checkpoint.name}: {path}")
        engine = Engine(Sdxl.open(checkpoint, tuning), assignment.max_batch)
    except SdxlLightningError as error:
        yield NotReady(error)
        return
    except Exception as error:
        logging.exception("the worker cannot start")
        yield NotReady(RunFailedError(f"The worker cannot start: {error}"))
        return
    # One run more than is computed together may wait at the door, so that the device never does.
    yield Ready(f"{tuning}", capacity=assignment.max_batch + 1)
    while True:
        while engine.idle or not orders.empty():
            order = orders.get()
            if isinstance(order, Submit):
                engine.submit(order.run_id, order.parameters)
            elif isinstance(order, Cancel):
                yield from engine.cancel(order.run_id)
        yield from engine.turn()


if __name__ == "__main__":
    main()
