"""A page at / to try the server, and the figures that it shows."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from antiphon.serve.load import load_of
from antiphon.serve.replies import errors
from antiphon.serve.service import service_of

router = APIRouter(responses=errors(401, 413, 500, 503))


@cache
def _page() -> tuple[str, dict[str, str]]:
    """The page, and headers that let it load nothing and run its own script alone."""
    text = files("antiphon.serve").joinpath("page.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src blob: data:; media-src blob:; "
        f"script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, {"content-security-policy": policy, "x-content-type-options": "nosniff"}


def _hash(page: str, tag: str) -> str:
    """Of the only element of this kind, as the policy names it."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> HTMLResponse:
    text, headers = _page()
    return HTMLResponse(text, headers=headers)


@router.get("/load")
async def load(request: Request) -> dict[str, Any]:
    """What both pools of each model have to do."""
    return await load_of(service_of(request))
