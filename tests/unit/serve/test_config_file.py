"""Values of a configuration file: what they may be, and that errors show no secrets."""

from pathlib import Path

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.serve.config_file import plan_of, read_config

SECRET = "sk-very-secret-key"


def of_file(folder: Path, *lines: str) -> Path:
    file = folder / "serve.yaml"
    file.write_text("\n".join(("models: {m: here}", *lines)))
    return file


@pytest.mark.parametrize("keys", [SECRET, f"[{SECRET}]", f"\n- {SECRET}"])
def test_one_text_is_one_key(tmp_path: Path, keys: str) -> None:
    plan = plan_of(read_config(of_file(tmp_path, f"api_keys: {keys}")))
    assert plan.settings.api_keys == (SECRET,)


def test_what_is_null_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(read_config(of_file(tmp_path, "api_keys:", "limits:", "port:", "engine:")))
    assert plan.settings.api_keys == ()
    assert plan.settings.port == 8000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("api_keys: 123456", "a key of api_keys must be text, not a value of type int: put it in"),
        ("api_keys: [a, 123456]", "a key of api_keys must be text, not a value of type int"),
        (f"api_keys: {{{SECRET}: x}}", "a key of api_keys must be text, not a value of type dict"),
        ("api_key_file: [123456]", "api_key_file must be a path, not a value of type list"),
        ('insecure: "no"', "insecure must be true or false, not a value of type str"),
        ("insecure: 1", "insecure must be true or false, not a value of type int"),
        ('replicas: "2"', "replicas must be a whole number, not a value of type str"),
        ("replicas: true", "replicas must be a whole number, not a value of type bool"),
        ("port: x", "port must be a whole number, not a value of type str"),
        ("port: 80.5", "port must be a whole number, not a value of type float"),
        ("host: 1", "host must be text, not a value of type int"),
        ("log_format: [json]", "log_format must be text, not a value of type list"),
        ("otlp_traces_endpoint: 4318", "otlp_traces_endpoint must be text"),
        ("limits: {open_requests: 1.5}", "limits: open_requests must be a whole number, not a"),
        ("limits: {prompts: true}", "limits: prompts must be a whole number"),
        ("limits: {upload_mib: x}", "limits: upload_mib must be a number"),
        ("limits: []", "must be a mapping"),
        ("engine: false", "'engine' must be a mapping"),
    ],
)
def test_values_of_the_wrong_type(tmp_path: Path, line: str, message: str) -> None:
    file = of_file(tmp_path, line)
    with pytest.raises(ConfigurationError) as caught:
        read_config(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "123456" not in str(caught.value).replace(str(file), "")


@pytest.mark.parametrize(
    "limit", ["upload_mib", "audio_seconds", "request_seconds", "drain_seconds"]
)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400", "0", "-3", "1.0e+300"])
def test_numbers_that_are_no_limits(tmp_path: Path, limit: str, value: str) -> None:
    file = of_file(tmp_path, f"limits: {{{limit}: {value}}}")
    with pytest.raises(ConfigurationError, match=f"{limit} must be a number"):
        plan_of(read_config(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("limits: {upload_mb: 1}", "no limit 'upload_mb'. Did you mean 'upload_mib'?"),
        ("limits: 7", "limits must be a mapping of names"),
        ("ports: 1", "no option 'ports'. Did you mean 'port'?"),
    ],
)
def test_names_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    file = of_file(tmp_path, line)
    with pytest.raises(ConfigurationError) as caught:
        read_config(file)
    assert str(caught.value) == f"{file}: {message}"
