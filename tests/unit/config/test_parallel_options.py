"""Options of replicas that several ranks compute together."""

from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel


def test_each_half_has_its_own_ranks() -> None:
    config = resolve(
        "m",
        {
            "encoder_tensor_parallel_size": 2,
            "encoder_tp_mode": "data",
            "decoder_tensor_parallel_size": 3,
            "decoder_pipeline_parallel_size": 2,
        },
        {},
    )
    assert config.encoder.parallel == Parallel(2, 1, "data")
    assert config.decoder.parallel == Parallel(3, 2)


def test_other_engines_spellings_set_both_halves() -> None:
    names = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "mm_encoder_tp_mode": "data"}
    config = resolve("m", names, {})
    assert config.encoder.parallel == Parallel(2, 3, "data")
    assert config.decoder.parallel == Parallel(2, 3)
    alone = resolve("m", {"tensor_parallel_size": None}, {})
    assert alone == resolve("m", {}, {})


def test_layers_of_stages_are_about_equal_or_as_given() -> None:
    options = {"decoder_pipeline_parallel_size": 3, "encoder_pipeline_parallel_size": 2}
    config = resolve("m", {**options, "encoder_pipeline_layers": " 10, 22"}, {})
    assert layers(config.decoder.parallel, 32) == [range(11), range(11, 22), range(22, 32)]
    assert layers(config.encoder.parallel, 32) == [range(10), range(10, 32)]


def layers(parallel: Parallel, count: int) -> list[range]:
    return [parallel.layers_of(stage, count) for stage in range(parallel.pipeline)]


def test_an_encoder_beside_a_decoder_has_its_ranks() -> None:
    config = resolve("m", {"decoder_tensor_parallel_size": 2, "decoder_pipeline_parallel_size": 2})
    assert config.layout(True) == {"encoder": Parallel(4, 1, "data"), "decoder": Parallel(2, 2)}
    assert config.layout(False) == {"encoder": Parallel(), "decoder": Parallel(2, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tensor_parallel_size": 0},
            "encoder_tensor_parallel_size must be a whole number above 0, not 0",
        ),
        (
            {"tensor_parallel_size": 2, "decoder_tensor_parallel_size": 4},
            "'tensor_parallel_size' is another name of 'decoder_tensor_parallel_size'|"
            "'decoder_tensor_parallel_size' is another name of",
        ),
        (
            {"encoder_tp_mode": "rows"},
            "must be one of auto, weights, data, not 'rows'",
        ),
        ({"decoder_tp_mode": "data"}, "unknown option 'decoder_tp_mode'"),
        (
            {"ray": False, "decoder_tensor_parallel_size": 2},
            "the decoder's tensor 2 x pipeline 1 = 2 ranks need a process each .*: leave out ray=F",
        ),
        ({"ray": False, "pipeline_parallel_size": 2}, "the encoder's tensor 1 x pipeline 2 = 2 "),
        (
            {"decoder_pipeline_layers": "10,12"},
            "decoder_pipeline_layers='10,12' is for 2 stages, and decoder_pipeline_parallel_size "
            "is 1: give one number for each stage",
        ),
        (
            {"encoder_pipeline_layers": "10,x", "encoder_pipeline_parallel_size": 2},
            "encoder_pipeline_layers='10,x' must be whole numbers above 0",
        ),
        (
            {"encoder_pipeline_layers": "4,0", "encoder_pipeline_parallel_size": 2},
            "encoder_pipeline_layers='4,0' must be whole numbers above 0",
        ),
        ({"collective_timeout": 0}, "collective_timeout must be a number above 0"),
    ],
)
def test_impossible_ones_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve("m", options, {})
