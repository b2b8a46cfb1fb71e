"""The file that `serve deploy` takes builds the application that it says."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import EXAMPLES, ROOT
from ray import serve
from ray.serve.schema import ServeDeploySchema

from antiphon.config.errors import ConfigurationError
from antiphon.serve.cluster import application

FILE = ROOT / "examples" / "serve_deploy.yaml"
MODEL = str(EXAMPLES / "t5_numbers" / "model")


def args_of_file(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """The builder that the file names, and its `args` with a model that is here."""
    config = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text()))
    (app,) = config.applications
    module, _, name = app.import_path.partition(":")
    args = {**app.args, "models": {"numbers": MODEL}, **changes}
    return getattr(importlib.import_module(module), name), args


def test_the_file_builds_its_application(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("secret\n")
    build, args = args_of_file(api_key_file=str(keys))
    assert isinstance(build(args), serve.Application)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_key_file": None}, "anyone on the network"),
        ({"insecure": True, "api_key_file": None, "port": 80}, "http_options"),
        (
            {"insecure": True, "api_key_file": None, "log_format": "json"},
            "'log_format' belongs into Serve's logging_config",
        ),
        ({"insecure": True, "api_key_file": None, "replica": 2}, "replica"),
        ({"insecure": True, "api_key_file": None, "limits": {"upload": 1}}, "upload_mib"),
        ({"insecure": True, "api_key_file": None, "limits": {"prompts": "x"}}, "prompts"),
        ({"insecure": True, "api_key_file": None, "engine": {"ray": False}}, "without Ray"),
        ({"insecure": True, "api_key_file": None, "models": {}}, "give a model"),
    ],
)
def test_what_is_wrong_in_it(changes: dict[str, Any], message: str) -> None:
    build, args = args_of_file(**changes)
    assert build is application
    with pytest.raises(ConfigurationError, match=message):
        build({name: value for name, value in args.items() if value is not None})
