"""The page's web server: on this machine alone by default, and gone when it is stopped."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

from slivit.errors import SlivitError
from slivit.viewer.guard import Guard

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ViewError(SlivitError):
    """A page that cannot be shown."""


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: the address to listen on.
        port: 0 for any free one.

    Raises:
        ViewError: the port is in use, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    # So that a page can be started again at once where an old one's connections are not quite gone.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(128)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise ViewError(
            f"port {port} of {host} cannot be used ({reason}); choose another with --port; --port 0 takes any free one"
        ) from error
    return taken


def address(taken: socket.socket) -> str:
    """The address of the page."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: Any, taken: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve a page until the process is told to stop.

    Args:
        app: the web application (ASGI).
        taken: the port, from `bind`; closed at the end.
        ready: is called with the address once it answers.
    """
    import uvicorn

    with taken:
        config = uvicorn.Config(guarded(app, taken), log_level="warning", lifespan="off", server_header=False)
        config.timeout_graceful_shutdown = 2  # open pages would keep the process alive
        server = uvicorn.Server(config)
        waiting = threading.Thread(target=_when_started, args=(server, lambda: ready(address(taken))), daemon=True)
        waiting.start()
        server.run(sockets=[taken])


def _when_started(server: Any, then: Callable[[], None]) -> None:
    import time

    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    then()


def guarded(app: Any, taken: socket.socket) -> Any:
    """The application behind its guard; on the loopback it only answers requests that name it so."""
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    if is_loopback(taken):
        # A page of another site could otherwise reach this one under a name that it has pointed at the loopback.
        app = TrustedHostMiddleware(app, allowed_hosts=["localhost", "127.0.0.1", "::1", "[::1]"])
    return Guard(app)


def is_loopback(taken: socket.socket) -> bool:
    """Whether nobody but this machine reaches a port."""
    return taken.getsockname()[0] in LOOPBACK


def open_browser(url: str) -> None:
    """Show the page in the user's browser; nothing happens where there is none."""
    webbrowser.open(url)
