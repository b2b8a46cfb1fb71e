"""Values of engine options as users of transformers, vLLM and faster-whisper type them."""

from typing import Any

import numpy as np
import pytest
import torch

from antiphon.cli.flags import ENGINE
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import OPTIONS, EngineConfig, HalfOptions, resolve


@pytest.mark.parametrize(
    ("value", "device"),
    [
        *(
            (value, "cuda")
            for value in (
                "cuda",
                "CUDA",
                " Cuda ",
                "cuda:0",
                "CUDA:0",
                "gpu",
                "GPU",
                "gpu:0",
                "0",
                0,
            )
        ),
        *(
            (value, "cuda")
            for value in (torch.device("cuda"), torch.device("cuda", 0), torch.device("cuda:0"))
        ),
        *(
            (value, "cpu")
            for value in ("cpu", "CPU", "cpu:0", -1, torch.device("cpu"), torch.device("cpu", 0))
        ),
        *((value, "auto") for value in (None, "auto", "Auto")),
    ],
    ids=repr,
)
def test_devices(value: Any, device: str) -> None:
    assert resolve("m", {"device": value}).model.device == device


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        *(
            (value, "set CUDA_VISIBLE_DEVICES=1 and give device='cuda'")
            for value in ("cuda:1", "CUDA:1", "gpu:1", "1", 1)
        ),
        (torch.device("cuda", 3), "set CUDA_VISIBLE_DEVICES=3 and give device='cuda'"),
        ("mps", "only CPUs and CUDA devices are used"),
        (torch.device("mps"), "only CPUs and CUDA devices are used"),
        *(
            (value, "^device must be one of auto, cpu, cuda, not ")
            for value in ("cud", "", "cuda:", "cuda:x", 0.0, True, [0], -2)
        ),
    ],
    ids=repr,
)
def test_other_devices(value: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy) as refused:
        resolve("m", {"device": value})
    assert str(refused.value).startswith("device must be one of auto, cpu, cuda, not ")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *(
            (value, "float16")
            for value in (
                "float16",
                "FLOAT16",
                "fp16",
                "FP16",
                "half",
                "f16",
                "torch.float16",
                " half ",
            )
        ),
        *(
            (value, "float16")
            for value in (torch.float16, torch.half, np.float16, np.dtype("float16"))
        ),
        *(
            (value, "bfloat16")
            for value in ("bfloat16", "bf16", "BF16", "torch.bfloat16", torch.bfloat16)
        ),
        *(
            (value, "float32")
            for value in ("float32", "float", "fp32", "f32", "single", torch.float, np.float32)
        ),
        *((value, "auto") for value in (None, "auto", "AUTO", "default")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype", "compute_type"])
def test_dtypes(name: str, value: Any, dtype: str) -> None:
    assert resolve("m", {name: value}).model.dtype == dtype


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        *(
            (value, "give quantization='int8'")
            for value in ("int8", torch.int8, np.int8, "int8_float16", "INT8_BFLOAT16")
        ),
        *((value, "give quantization='fp8'") for value in ("fp8", torch.float8_e4m3fn)),
        *(
            (value, "weights are read as float32 at most")
            for value in ("float64", torch.double, np.float64, "double")
        ),
        *(
            (value, "^dtype must be one of auto, float32, ")
            for value in ("flaot16", "16", 16, "", True, float, torch.int32)
        ),
    ],
    ids=repr,
)
def test_other_dtypes(value: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        resolve("m", {"compute_type": value})


@pytest.mark.parametrize("value", ["fp8", "FP8", "fp8_e4m3", "float8", torch.float8_e4m3fn])
def test_kv_cache_dtypes(value: Any) -> None:
    assert resolve("m", {"kv_cache_dtype": value}).decoder.kv_cache_dtype == "fp8"
    assert resolve("m", {"encoder_attention_dtype": value}).encoder.attention_dtype == "fp8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantization", "INT8"),
        ("placement", "Colocated"),
        ("encoder_window", "FULL"),
        ("load_format", "Dummy"),
    ],
)
def test_choices_in_any_case(name: str, value: str) -> None:
    config = resolve("m", {name: value})
    option = OPTIONS[name]
    assert getattr(getattr(config, option.section), option.field) == value.lower()


def test_what_is_no_choice_keeps_its_case() -> None:
    config = resolve("Org/Model", {"revision": "Main", "address": "Head:6379"})
    assert (config.model.model, config.model.revision, config.workers.address) == (
        "Org/Model",
        "Main",
        "Head:6379",
    )


def test_flags_take_the_same_spellings() -> None:
    flags = {
        parameter.name: parameter.annotation.__metadata__[0].callback
        for parameter in ENGINE.parameters()
    }
    for name, value in {
        "device": "GPU:0",
        "dtype": "Half",
        "kv_cache_dtype": "fp8_e4m3",
        "quantization": "INT8",
    }.items():
        assert resolve("m", {name: flags[name](value)}) == resolve("m", {name: value})
    with pytest.raises(Exception, match="CUDA_VISIBLE_DEVICES=1"):
        flags["device"]("cuda:1")


def test_both_halves_have_the_same_kind_of_options() -> None:
    """Users type the half in front of the name; code asks the half for it."""
    config = resolve(
        "m",
        {"encoder_attention_backend": "triton", "decoder_replicas": 2, "encoder_window": "auto"},
        {},
    )
    assert isinstance(config.encoder, HalfOptions)
    assert isinstance(config.decoder, HalfOptions)
    assert (config.encoder.attention_backend, config.decoder.attention_backend) == (
        "triton",
        "auto",
    )
    assert (config.encoder.replicas, config.decoder.replicas) == (1, 2)
    assert config.encoder.window == "auto"
    with pytest.raises(ConfigurationError, match="unknown option 'replicas'"):
        resolve("m", {"replicas": 2}, {})


def test_the_table_leads_to_the_fields_of_the_configuration() -> None:
    config = EngineConfig()
    for option in OPTIONS.values():
        assert getattr(getattr(config, option.section), option.field) == option.default
        assert option.meaning
