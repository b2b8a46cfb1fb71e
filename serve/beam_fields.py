"""Fields of a beam search in requests without one."""

from antiphon.config.sampling import SamplingParams
from antiphon.serve.errors import refused
from antiphon.serve.service import ServedModel

NEUTRAL = {"length_penalty": 1.0, "early_stopping": False, "patience": 1.0}  # ask for nothing


def check_beam_fields(model: ServedModel, params: SamplingParams) -> None:
    """Raises ApiError for a field that would be ignored: neither the request nor the checkpoint
    asks for beams."""
    asking = [
        name
        for name, neutral in NEUTRAL.items()
        if not params.leaves_open(name) and getattr(params, name) != neutral
    ]
    if not asking:
        return
    inputs, defaults = model.engine.inputs, model.engine.inputs.model.defaults
    if defaults.beams.rules(defaults.complete(params), inputs.whisper is not None) is None:
        raise refused(asking[0], "it is of a beam search, which beam_size above 1 asks for")
