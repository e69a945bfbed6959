"""The paths of the application below its mount, and their methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

INSTANCE_ID = "instance_id"
"""Name of the instance id in the ``path_params`` of a scope."""


def path_in(scope: Scope) -> str:
    """Return the path of a request below the path that the application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


@define(eq=False)
class Paths:
    """Passes requests on by path and method.

    Unlike Starlette's routes, which end at a line break, the paths of instances take an id of any characters.

    Args:
      events: the applications at ``/``, by method.
      instances: the applications at ``/{name}/{instance_id}``, by name. All take POST.
    """

    _events: Mapping[str, ASGIApp]
    _instances: Mapping[str, ASGIApp]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        path = path_in(scope)
        _, name, instance_id = path.split("/", 2) if path.count("/") > 1 else (path, "", "")
        if path == "/":
            methods = self._events
        elif name in self._instances and instance_id:
            methods = {"POST": self._instances[name]}
            scope = {**scope, "path_params": {**scope.get("path_params", {}), INSTANCE_ID: instance_id}}
        else:
            raise HTTPException(404)
        if scope["method"] not in methods:
            raise HTTPException(405, headers={"allow": ", ".join(methods)})
        await methods[scope["method"]](scope, receive, send)


@define(eq=False)
class WithoutSlash:
    """Takes a request without a path, or at the path of a Starlette route, as one for ``/``.

    A ``Mount("/events", app.asgi)`` does not take ``/events``: Starlette redirects to ``/events/``, and senders of
    events lose their body or do not follow. A ``Route("/events", app.asgi)`` beside it does.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = path_in(scope)
            outer = scope.get("router")
            if (not path and scope["path"]) or (outer is not None and _is_endpoint(scope["app"], path, outer.routes)):
                scope = {**scope, "path": f"{scope.get('root_path', '')}/"}
        await self.app(scope, receive, send)


def _is_endpoint(application: object, path: str, routes: Iterable[BaseRoute]) -> bool:
    """Tell whether one of the routes, or of those below them, leads from a path to the application."""
    for route in routes:
        if isinstance(route, Route):
            if route.endpoint is application and route.path_regex.match(path):
                return True
        elif _is_endpoint(application, path, getattr(route, "routes", None) or ()):
            return True
    return False
