"""torchao's `quantization_config`, as transformers writes it: a class with its arguments."""

from collections.abc import Callable, Mapping
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.quantization.scheme import (
    EVERY,
    EVERY_LINEAR,
    InputScheme,
    Rule,
    Scheme,
    StoredQuantization,
    WeightScheme,
)

Arguments = Mapping[str, Any]
REMEDY = "save the model with int8, float8, intx or plain int4 weights of torchao 0.15 or newer"
PLAIN = ("PLAIN", "UNPACKED_TO_INT8")  # ways to store numbers in their own order


def read_torchao(settings: Mapping[str, Any]) -> StoredQuantization:
    """`modules_to_not_convert` and, of `FqnToConfig`, names and patterns with a scheme each."""
    config = settings["quant_type"]["default"]
    kept_out = list(settings.get("modules_to_not_convert") or ())
    if config["_type"] not in ("FqnToConfig", "ModuleFqnToConfig"):
        rules = [Rule(EVERY_LINEAR, _scheme(config))]
        return StoredQuantization("torchao", tuple(rules), tuple(kept_out))
    arguments, rules = config["_data"], []
    for name, own in (arguments.get("fqn_to_config") or arguments["module_fqn_to_config"]).items():
        if own is None:
            kept_out.append(name)
        else:
            rules.append(Rule(("Linear" if name == "_default" else name,), _scheme(own)))
    return StoredQuantization("torchao", tuple(rules), tuple(kept_out))


def _scheme(config: Arguments) -> Scheme:
    name, arguments = config["_type"], config.get("_data") or {}
    if name not in SCHEMES:
        raise UnsupportedModelError(
            f"torchao's {name} is not read ({', '.join(sorted(SCHEMES))} are): {REMEDY}"
        )
    for option in ("int4_packing_format", "intx_packing_format", "packing_format"):
        order = (arguments.get(option) or {"_data": PLAIN[0]})["_data"].upper()
        if order not in PLAIN:
            raise UnsupportedModelError(
                f"torchao's {name} with {option} {order}, in the order of one device's kernel, is "
                f"not read: {REMEDY}"
            )
    return SCHEMES[name](arguments)


def _int8(arguments: Arguments) -> Scheme:
    return Scheme(WeightScheme("int", 8, _block(arguments.get("granularity")), layout="int8"))


def _int8_inputs(arguments: Arguments) -> Scheme:
    inputs = InputScheme("int", symmetric=_is_symmetric(arguments, "act_mapping_type"))
    return Scheme(_int8(arguments).weights, inputs)


def _float8(arguments: Arguments) -> Scheme:
    dtype = (arguments.get("weight_dtype") or {"_data": "float8_e4m3fn"})["_data"]
    if dtype != "float8_e4m3fn":
        raise UnsupportedModelError(f"torchao's weights of {dtype} are not read: {REMEDY}")
    return Scheme(WeightScheme("float", 8, _block(arguments.get("granularity")), layout="float8"))


def _float8_inputs(arguments: Arguments) -> Scheme:
    """A dynamic scale of a whole batch would make each text depend on the others: each token has
    its own, which is finer."""
    limit = arguments.get("activation_value_ub")
    return Scheme(_float8(arguments).weights, InputScheme("float", limit=limit))


def _int4(arguments: Arguments) -> Scheme:
    block = (1, int(arguments.get("group_size") or 128))
    return Scheme(WeightScheme("int", 4, block, symmetric=False, layout="int4"))


def _intx(arguments: Arguments) -> Scheme:
    dtype = (arguments.get("weight_dtype") or {"_data": "int8"})["_data"]
    bits = 4 if dtype == "int4" else 8  # a byte each, whatever their range
    granularity = arguments.get("granularity") or arguments.get("weight_granularity")
    return Scheme(WeightScheme("int", bits, _block(granularity), layout="intx"))


def _intx_inputs(arguments: Arguments) -> Scheme:
    inputs = InputScheme("int", symmetric=_is_symmetric(arguments, "act_mapping_type"))
    return Scheme(_intx(arguments).weights, inputs)


SCHEMES: Mapping[str, Callable[[Arguments], Scheme]] = {
    "Int8WeightOnlyConfig": _int8,
    "Int8DynamicActivationInt8WeightConfig": _int8_inputs,
    "Int4WeightOnlyConfig": _int4,
    "IntxWeightOnlyConfig": _intx,
    "Int8DynamicActivationIntxWeightConfig": _intx_inputs,
    "Float8WeightOnlyConfig": _float8,
    "Float8DynamicActivationFloat8WeightConfig": _float8_inputs,
}


def _is_symmetric(arguments: Arguments, option: str) -> bool:
    return (arguments.get(option) or {"_data": "SYMMETRIC"})["_data"] == "SYMMETRIC"


def _block(granularity: Any) -> tuple[int, int]:
    """Rows and columns that share a scale; of a pair, the weight's is the second."""
    if isinstance(granularity, list):
        granularity = granularity[-1]
    kind = (granularity or {"_type": "PerRow"})["_type"]
    if kind == "PerGroup":
        return 1, int(granularity["_data"]["group_size"])
    if kind == "PerTensor":
        return EVERY, EVERY
    if kind in ("PerRow", "PerAxis"):
        return 1, EVERY
    raise UnsupportedModelError(f"torchao's scales by {kind} are not read: {REMEDY}")
