"""A real HTTP server on loopback, for as long as a block."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: ASGIApp) -> tuple[Server, socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False)
    return Server(config), listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    made, listener, url = server(app)
    task = asyncio.create_task(made.serve(sockets=[listener]))
    try:
        yield url
    finally:
        made.should_exit = True
        await task
        listener.close()


@contextlib.contextmanager
def serving_in_thread(app: ASGIApp) -> Iterator[str]:
    made, listener, url = server(app)
    thread = threading.Thread(target=lambda: asyncio.run(made.serve(sockets=[listener])))
    thread.start()
    try:
        yield url
    finally:
        made.should_exit = True
        thread.join()
        listener.close()
