"""Engine options: wrong values are refused by name, rule and value; foreign spellings accepted."""

from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import OPTIONS, resolve

NAN, INF = float("nan"), float("inf")
NUMBERS = [
    "max_num_seqs",
    "kv_page_size",
    "num_kv_pages",
    "max_model_len",
    "encoder_replicas",
    "num_threads",
    "encode_ahead_tokens",
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["8", True, 2.5, NAN, [1], 0, -1, 2**31, {"a": 1}])
def test_whole_numbers_of_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number above 0, not "):
        resolve("m", {name: value})


@pytest.mark.parametrize("name", ["kv_cache_memory_gib", "startup_timeout"])
@pytest.mark.parametrize("value", ["8", True, NAN, INF, [1], 0, -1, 10**400])
def test_numbers_of_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number above 0, not "):
        resolve("m", {name: value})


@pytest.mark.parametrize(
    "name",
    [
        "dtype",
        "device",
        "quantization",
        "load_format",
        "encoder_window",
        "kv_cache_dtype",
        "placement",
    ],
)
@pytest.mark.parametrize("value", ["purple", 1, True, ["auto"], ""])
def test_choices_of_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be one of "):
        resolve("m", {name: value})


@pytest.mark.parametrize("name", ["enforce_eager", "ray"])
@pytest.mark.parametrize("value", ["yes", 1, 0.0, []])
def test_flags_of_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be true or false"):
        resolve("m", {name: value})


@pytest.mark.parametrize(
    "name", ["revision", "encoder_attention_backend", "decoder_attention_backend", "address"]
)
@pytest.mark.parametrize("value", [5, "", ["triton"], True])
def test_texts_of_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a text that is not empty"):
        resolve("m", {name: value})


@pytest.mark.parametrize("model", [None, 5, "", [], b"tiny"])
def test_models_are_named_by_text(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="model must be a folder, a hub id or a size"):
        resolve(model, {})


def test_none_is_every_options_default() -> None:
    assert resolve("m", dict.fromkeys(set(OPTIONS) - {"model"}), {}) == resolve("m", {}, {})


def test_foreign_names_and_values_are_taken() -> None:
    config = resolve(
        "m",
        {
            "mm_encoder_attn_backend": "FLASHINFER",
            "dtype": torch.float16,
            "block_size": np.int64(8),
            "kv_cache_dtype": "fp8_e4m3",
            "tensor_parallel_size": 1,
            "trust_remote_code": False,
        },
        {},
    )
    assert config.encoder.attention_backend == "flashinfer"
    assert (config.model.dtype, config.decoder.kv_page_size, config.decoder.kv_cache_dtype) == (
        "float16",
        8,
        "fp8",
    )
    assert type(config.decoder.kv_page_size) is int
    with pytest.raises(ConfigurationError, match="'block_size' is another name of 'kv_page_size'"):
        resolve("m", {"kv_page_size": 8, "block_size": 8})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"data_parallel_size": 2},
            "data_parallel_size=2 cannot be honored: give decoder_replicas",
        ),
        ({"gpu_memory_utilization": 0.9}, "give kv_cache_memory_gib"),
        ({"limit_mm_per_prompt": {"audio": 2}}, "a prompt takes one recording"),
        ({"limit_mm_per_prompt": {"image": 4, "video": 1}}, "images and videos have one limit"),
        ({"trust_remote_code": True}, "no code of a checkpoint is ever run"),
        ({"model": "x"}, "unknown option 'model'"),
        ({"beam_size": 5}, "beam_size=5 cannot be honored: give Sampl"),
        ({"max_num_seq": 5}, "Did you mean 'max_num_seqs'"),
        ({"colour": 5}, "unknown option 'colour'. Valid names: address, "),
    ],
)
def test_foreign_names_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve("m", options)


def test_options_resolve_into_sections() -> None:
    config = resolve("m", {"kv_page_size": 8, "encoder_attention_backend": "torch_sdpa"}, {})
    assert (config.decoder.kv_page_size, config.encoder.attention_backend) == (
        8,
        "torch_sdpa",
    )


def test_environment_variables_serve_for_attention_backends() -> None:
    environment = {"ANTIPHON_DECODER_ATTENTION_BACKEND": "torch_sdpa"}
    assert resolve("m", {}, environment).decoder.attention_backend == "torch_sdpa"
    assert (
        resolve("m", {"decoder_attention_backend": "auto"}, environment).decoder.attention_backend
        == "auto"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seq": 3}, "unknown option 'max_num_seq'. Did you mean 'max_num_seqs'"),
        ({"kv_page_size": 0}, "kv_page_size must be a whole number above 0, not 0"),
        ({"max_num_seqs": 2.5}, "max_num_seqs must be a whole number"),
        ({"max_num_seqs": True}, "max_num_seqs"),
        ({"kv_cache_memory_gib": -1}, "kv_cache_memory_gib must be a number above 0"),
        ({"dtype": "int4"}, "dtype must be one of auto, float32"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve("m", options)


def test_a_limit_of_images_as_other_engines_write_it() -> None:
    for limits, wanted in (
        ({"image": 2, "audio": 1}, 2), ({"audio": 1}, None), ({"video": 3}, 3),
        ({"image": 2, "video": 2}, 2), ({"image": 2, "video": 0}, 2), ({"image": 1, "audio": 0}, 1),
    ):  # fmt: skip
        config = resolve("x", {"limit_mm_per_prompt": limits})
        assert config.model.limit_images_per_prompt == wanted
    with pytest.raises(ConfigurationError, match="must be a mapping such as"):
        resolve("x", {"limit_mm_per_prompt": 2})
