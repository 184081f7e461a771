"""What runs inside a shared worker, and ends with the last of the servers that came to it.

It talks with each over a connection of its own. When one ends, however the server came to its end,
its runs are let go, and nobody else's are touched.
"""

import logging
import os
import queue
import signal
import sys
from concurrent.futures import Future
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from sdxl_lightning_mcp.runners.shared.desk import Desk
from sdxl_lightning_mcp.runners.shared.places import Place
from sdxl_lightning_mcp.runners.wire import LISTENING, TAKEN, Order
from sdxl_lightning_mcp.runners.worker import serve

log = logging.getLogger(__name__)


def main() -> None:
    """Serves whoever comes to the place that the command line names, unless another does."""
    place = Place(Path(sys.argv[1]), sys.argv[2])
    # Before anything heavy is imported: of several that are started at once one goes on.
    lock = place.hold()
    if lock is None:
        os.write(1, TAKEN)
        return
    # From no terminal: it outlives those from which it was started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s worker: %(message)s")
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    desk = Desk(place, orders.put)
    # The engine has this thread, the servers have another, and hear and are heard meanwhile.
    with start_blocking_portal() as servers:
        try:
            servers.start_task(desk.open)
            _leave_stdout()
            serve(orders, lambda event: _report(servers.start_task_soon(desk.hear, event)))
            servers.call(desk.close)
        except BaseException:
            logging.exception("the worker ends")
        place.clear()
        os._exit(1)


def _report(heard: Future[None]) -> None:
    heard.add_done_callback(lambda done: done.exception() and log.error("%r", done.exception()))


def _leave_stdout() -> None:
    """Says that it listens; from now on what is printed goes to the log."""
    os.write(1, LISTENING)
    os.dup2(2, 1)


if __name__ == "__main__":
    main()
