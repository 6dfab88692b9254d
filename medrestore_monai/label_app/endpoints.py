"""What of MONAI Label's interface a client reaches: no proxy, no writing unless asked for, and no request that blocks.

MONAI Label has no settings for this. Routes that are put before its own answer in their place, whatever its version
makes of them; nothing of FastAPI's inside is touched.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

_WRITES = ("PUT", "POST", "PATCH", "DELETE")
# a session unpacks what a client sends, however large that becomes
_WRITTEN = ("datastore", "session", "model")
GIB = 2**30
#: In bytes, of what a client sends and of what that unpacks to.
LARGEST_UPLOAD, LARGEST_UNPACKED = 2 * GIB, 8 * GIB

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def limits_of(conf: Mapping[str, str]) -> tuple[int, int]:
    """Return the largest upload and what it may unpack to, in bytes.

    Args:
        conf: from ``--conf``; ``largest_upload`` and ``largest_unpacked`` are in GiB.

    Raises:
        ValueError: one is not a number above 0.
    """
    found = []
    for name, default in (("largest_upload", LARGEST_UPLOAD), ("largest_unpacked", LARGEST_UNPACKED)):
        try:
            size = float(conf.get(name, default / GIB))
        except ValueError:
            size = 0
        if not 0 < size < 1e6:
            raise ValueError(f"{name} must be a number of GiB above 0, got {conf[name]!r}.")
        found.append(int(size * GIB))
    return found[0], found[1]


def is_on(conf: Mapping[str, str], name: str) -> bool:
    """Return whether ``--conf NAME true`` was given.

    Raises:
        ValueError: it is neither true nor false.
    """
    value = str(conf.get(name, "false")).strip().lower()
    if value not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {conf[name]!r}.")
    return value == "true"


def close_endpoints(app: Any, prefix: str = "", allow_writes: bool = False, allow_proxy: bool = False) -> None:
    """Answer in the place of endpoints that are off: 403, with one sentence.

    Args:
        app: the FastAPI or Starlette application.
        prefix: of all paths.
        allow_writes: leave those that write or delete.
        allow_proxy: leave the proxy, which passes any request of a client on to the DICOMweb store, with the password
            of the server.
    """
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def refuse(request: Any) -> Any:
        return JSONResponse({"detail": "this endpoint is off; the README of the app says how to turn it on."}, 403)

    closed = [] if allow_proxy else [Route(f"{prefix}/proxy/{{path:path}}", refuse, methods=["GET", *_WRITES])]
    if not allow_writes:
        closed += [Route(f"{prefix}/{part}/{{path:path}}", refuse, methods=list(_WRITES)) for part in _WRITTEN]
    for route in closed:
        app.router.routes.insert(0, route)


def serve_in_threads(app: Any, path: str, endpoint: Callable[..., Any], largest: int = LARGEST_UPLOAD) -> None:
    """Serve a POST endpoint so that a slow request does not block the others, and a large one is refused.

    Args:
        app: the FastAPI application.
        path: of the endpoint.
        endpoint: MONAI Label's own function, which does all of its work without letting others run.
        largest: bytes that a request may have.
    """
    app.router.add_api_route(path, in_thread(endpoint), methods=["POST"])
    route = app.router.routes.pop()
    route.app = limited(route.app, largest)
    app.router.routes.insert(0, route)


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function with the parameters of a coroutine: FastAPI runs such a function in a thread."""
    if not inspect.iscoroutinefunction(endpoint):
        return endpoint

    @functools.wraps(endpoint)
    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(endpoint(*args, **kwargs))

    # FastAPI would look at the coroutine that is wrapped
    signature = inspect.signature(endpoint)
    del run.__wrapped__
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def limited(app: ASGI, largest: int) -> ASGI:
    """Return an ASGI application that takes no more bytes of a request; the answer is 413."""

    async def run(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        announced = dict(scope.get("headers") or ()).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > largest:
            await _refuse(send, largest)
            return
        arrived, refused = 0, False

        async def counted() -> Message:
            nonlocal arrived, refused
            message = await receive()
            arrived += len(message.get("body") or b"")
            if arrived > largest and not refused:
                refused = True
                await _refuse(send, largest)
            return {"type": "http.disconnect"} if refused else message

        async def sent(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            await app(scope, counted, sent)
        except Exception:
            if not refused:  # the answer is given, and what reads a request that ends early may raise
                raise

    return run


async def _refuse(send: Send, largest: int) -> None:
    body = b'{"detail": "a request may have %d bytes."}' % largest
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
