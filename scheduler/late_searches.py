"""Beam searches that stop strings may end, while the tokenizer for their texts is loaded."""

from collections.abc import Callable

from antiphon.config.errors import describe
from antiphon.scheduler.beam_texts import NewText, needs_text
from antiphon.scheduler.request import Request, RequestState


class LateSearches:
    """They wait outside all lines: a tokenizer takes seconds, and others must not wait for it.
    `begin` puts one in line, `finish` ends one."""

    def __init__(
        self,
        new_text: NewText,
        begin: Callable[[Request], None],
        finish: Callable[..., None],
    ) -> None:
        self._new_text, self._begin, self._finish = new_text, begin, finish
        self._waiting: list[Request] = []

    def takes(self, request: Request) -> bool:
        """True if `request` waits here, until `begin_ready` puts it in line. Raises what
        tokenizers raise."""
        if not needs_text(request) or self._new_text(request.params) is not None:
            return False
        self._waiting.append(request)
        return True

    def begin_ready(self) -> None:
        """Puts the searches in line whose tokenizers are loaded by now."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if request.state.final:  # cancelled meanwhile, or too late
                continue
            try:
                if not self.takes(request):
                    self._begin(request)
            except Exception as error:  # of any type; the loop serves others
                why = f"cannot be served: {describe(error)}"
                self._finish(request, RequestState.REFUSED, error=why)
