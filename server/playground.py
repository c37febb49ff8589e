"""GET /script: the playground, a page that shows what is kept of a visitor's own picture.

The files of page/ are served as they are. The page asks the documented routes, from the visitor's
browser, so nothing of a request passes through here.
"""

from __future__ import annotations

import importlib.resources
import mimetypes
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every file of the page: nothing is loaded from elsewhere, and no other page frames it."""

mimetypes.add_type("text/javascript", ".js")  # some systems have another in their registry


def _files() -> dict[str, Any]:
    """What the page consists of, by name: page/, and the picture that a visitor may try first."""
    page = importlib.resources.files(__package__) / "page"
    scene = importlib.resources.files("vllm_script.benchmarks") / "scene.png"
    return {file.name: file for file in [*page.iterdir(), scene]}


@router.api_route("/script", methods=["GET", "HEAD"])
def page() -> Response:
    """The page itself."""
    return _response("page.html")


@router.api_route("/script/{name}", methods=["GET", "HEAD"])
def file(name: str) -> Response:
    """A file that the page loads."""
    return _response(name)


def _response(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise HTTPException(404)
    kind, _ = mimetypes.guess_type(name)
    return Response(found.read_bytes(), headers=HEADERS, media_type=kind)
