"""Which beam search a request gets, from its parameters and the checkpoint's settings."""

from antiphon.config.decoding_rules import BeamRules
from antiphon.config.generation import GenerationDefaults
from antiphon.config.sampling import SamplingParams


def test_beams_of_the_checkpoint() -> None:
    """They hold where the caller leaves them open, and asks for one greedy output."""
    settings = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}
    beams = GenerationDefaults.of(settings, {}, 9).beams
    assert beams.rules(SamplingParams(), False) == BeamRules(4, 1, False, 2.0, True)
    assert beams.rules(SamplingParams(beam_size=1), False) is None
    assert beams.rules(SamplingParams(temperature=1.0, n=2), False) is None
    own = SamplingParams(beam_size=3, n=2, length_penalty=0.0, early_stopping=False)
    assert beams.rules(own, False) == BeamRules(3, 2, False, 0.0, False)
    # Whisper is searched as openai/whisper does it, with its own idea of lengths.
    assert beams.rules(SamplingParams(), True) == BeamRules(4, 1, True)
    patient = SamplingParams(patience=2.0, length_penalty=0.5)
    assert beams.rules(patient, False) == BeamRules(4, 1, True, 0.5, False, 2.0)
    stopping = SamplingParams(early_stopping="never")
    assert beams.rules(stopping, True) == BeamRules(4, 1, False, 2.0, "never")
    assert GenerationDefaults.of({}, {}, 9).beams.rules(SamplingParams(), False) is None


def test_beams_are_never_drawn() -> None:
    draws = GenerationDefaults.of({"num_beams": 4, "do_sample": True}, {}, 9)
    assert draws.ignored == ("num_beams=4",)
    assert draws.beams.rules(draws.complete(SamplingParams()), False) is None
    assert draws.complete(SamplingParams(beam_size=2)).temperature == 0.0


def test_n_grams_that_may_not_come_twice() -> None:
    defaults = GenerationDefaults.of({"no_repeat_ngram_size": 3}, {}, 9)
    assert defaults.rules(1, SamplingParams()).no_repeat_ngram == 3
    assert defaults.rules(1, SamplingParams(no_repeat_ngram_size=0)).no_repeat_ngram == 0
    assert defaults.rules(1, SamplingParams(no_repeat_ngram_size=2)).no_repeat_ngram == 2
