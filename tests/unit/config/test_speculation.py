"""Options of speculative decoding, as other engines spell them, and what is refused."""

from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.speculation import SpeculationOptions


def options(config: Any, **others: Any) -> SpeculationOptions:
    return resolve("m", {"speculative_config": config, **others}, {}).speculation


def test_a_mapping_or_json() -> None:
    config = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 5}
    made = options(config)
    assert made == options(
        '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 5}'
    )
    assert made.speculative_method == "ngram"
    assert (made.num_speculative_tokens, made.prompt_lookup_max) == (3, 5)
    assert made == options(
        None, speculative_method="ngram", num_speculative_tokens=3, prompt_lookup_max=5
    )
    assert not options(None).drafts


def test_a_model_drafts() -> None:
    assert options({"model": "x"}).speculative_method == "draft_model"
    assert options({"model": "[ngram]"}) == options({"method": "ngram"})
    assert (
        options({"model": "x", "disable_by_batch_size": 3}).speculative_disable_by_batch_size == 3
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"metod": "ngram"}, "has no key 'metod'. Did you mean 'method'"),
        ({"draft_tensor_parallel_size": 1}, "has no key 'draft_tensor_parallel_size'"),
        ({"method": "eagle"}, "must be one of none, ngram, draft_model, not 'eagle'"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "num_speculative_tokens must be"),
        ({"method": "ngram", "num_speculative_tokens": 16}, "is over 15"),
        ({"method": "ngram", "prompt_lookup_max": 1}, "prompt_lookup_min=2 is over"),
        ({"method": "ngram", "model": "x"}, "drafts only with"),
        ({"method": "draft_model"}, "needs speculative_model"),
        (["ngram"], "must be a mapping"),
        ("ngram", "is no JSON"),
    ],
)
def test_refused(config: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace("[", r"\[")):
        options(config)


def test_pipelines_do_not_draft() -> None:
    with pytest.raises(ConfigurationError, match=r"2 stages .* decoder_tensor_parallel_size"):
        options({"method": "ngram"}, decoder_pipeline_parallel_size=2)


def test_an_option_twice() -> None:
    with pytest.raises(ConfigurationError, match="num_speculative_tokens"):
        options({"method": "ngram", "num_speculative_tokens": 3}, num_speculative_tokens=4)
