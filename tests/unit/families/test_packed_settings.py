"""What `quantization_config` of GPTQ, AWQ, bitsandbytes and torchao says, and what is refused."""

from typing import Any

import pytest
from packed_writers import METHODS

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.reading import stored_quantization
from antiphon.families.quantization.scheme import EVERY, StoredQuantization


def read(**settings: Any) -> StoredQuantization:
    found = stored_quantization({"quantization_config": settings}, "it")
    assert found is not None
    return found


def torchao(name: str, **arguments: Any) -> dict[str, Any]:
    return {"quant_type": {"default": {"_type": name, "_data": arguments}}}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_line_for_people(method: str) -> None:
    settings, _ = METHODS[method]
    assert read(**settings).label.startswith(f"{settings['quant_method']}: weights ")


def test_gptq_for_some_layers() -> None:
    """GPTQModel's `dynamic`: the first pattern that fits changes a layer's settings, or keeps it
    as it is."""
    quantization = read(
        quant_method="gptq",
        bits=4,
        group_size=128,
        dynamic={
            r"-:.*\.0\.": {},
            r"+:.*fc1": {"bits": 8, "group_size": 64},
            r".*fc2": {"bits": 8},
        },
    )
    assert quantization.kept_out == (r"re:.*\.0\.",)
    for layer, bits, size in (("l.1.fc1", 8, 64), ("l.1.fc2", 8, 128), ("l.1.k", 4, 128)):
        weights = quantization.scheme_of(layer).weights
        assert (weights.bits, weights.block) == (bits, (1, size))


def test_one_group_is_every_input() -> None:
    assert read(quant_method="gptq", bits=8, group_size=-1).rules[0].scheme.weights.block == (
        1,
        EVERY,
    )


def test_torchao_for_some_layers() -> None:
    own = {"_type": "Int8WeightOnlyConfig", "_data": {}}
    quantization = read(
        quant_method="torchao",
        **torchao(
            "FqnToConfig",
            fqn_to_config={
                "_default": own,
                "re:.*fc1": {"_type": "Float8WeightOnlyConfig", "_data": {}},
                "re:.*fc2": None,
            },
        ),
    )
    assert quantization.kept_out == ("re:.*fc2",)
    assert quantization.scheme_of("a.fc1").weights.kind == "float"
    assert quantization.scheme_of("a.k").weights.kind == "int"


def test_torchao_inputs_of_eight_bits() -> None:
    for name, kind in (
        ("Int8DynamicActivationInt8WeightConfig", "int"),
        ("Float8DynamicActivationFloat8WeightConfig", "float"),
    ):
        inputs = read(quant_method="torchao", **torchao(name)).rules[0].scheme.inputs
        assert inputs is not None
        assert (inputs.kind, inputs.dynamic) == (kind, True)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "3 bits are not read: 4 and 8"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "format marlin"),
    ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "format marlin"),
    ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int64"}, "words of int64"),
    ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:a": {"bits": 2}}}, "2 bits"),
    ({"quant_method": "awq", "bits": 4, "version": "GEMV"}, "version gemv is not read"),
    ({"quant_method": "awq", "bits": 8}, "8 bits"),
    ({"quant_method": "awq", "bits": 4, "zero_point": False}, "without zero points"),
    ({"quant_method": "bitsandbytes"}, "neither 8 bits nor 4"),
    (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int4"},
        "int4 is not read",
    ),
    (
        {"quant_method": "torchao", **torchao("UIntXWeightOnlyConfig")},
        "UIntXWeightOnlyConfig is not read .*Int8WeightOnlyConfig",
    ),
    (
        {
            "quant_method": "torchao",
            **torchao("Int4WeightOnlyConfig", int4_packing_format={"_data": "TILE_PACKED_TO_4D"}),
        },
        "TILE_PACKED_TO_4D, in the order of one device's kernel",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_is_not_read_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq"},
        {"quant_method": "gptq", "bits": 4, "group_size": "many"},
        {"quant_method": "torchao", "quant_type": "int8_weight_only"},
    ],
)
def test_settings_that_are_garbled(settings: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="is not valid"):
        read(**settings)
