"""What transcribing needs of an engine."""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from antiphon.engine.budget import Hold
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import CompletionOutput
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor

P = ParamSpec("P")
T = TypeVar("T")


class RequestEngine(Protocol):
    inputs: InputProcessor

    def submit(
        self, prepared: Prepared, prompt_token_ids: list[int], **options: Any
    ) -> OpenRequest: ...

    def cancel(self, opened: OpenRequest) -> None: ...

    async def result(self, opened: OpenRequest) -> CompletionOutput: ...

    def hold_memory(self, num_bytes: int) -> Hold: ...

    async def run_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
