"""Joins or starts Ray, places the workers of one engine, and takes them down again."""

import logging
import os
import socket
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from antiphon.actors.hosts import ColocatedHost, DecoderHost, EncoderHost
from antiphon.config.errors import AntiphonError, ConfigurationError, EngineDeadError
from antiphon.config.model import ModelConfig
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import TimestampRules

CONNECT_SECONDS = 5.0


class RayConnection:
    """This process's connection to Ray, shared by its engines: the first connects, unless the program had, and the last leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines, self._ours = 0, False

    def join(self, address: str | None) -> None:
        with self._lock:
            if not ray.is_initialized():
                _connect(address)
                self._ours = True
            self._engines += 1

    def leave(self) -> None:
        with self._lock:
            self._engines -= 1
            if not self._engines and self._ours:
                self._ours = False
                ray.shutdown()


connection = RayConnection()
_launching = threading.Lock()


def _connect(address: str | None) -> None:
    """Joins the given or the running cluster, or starts one on this machine."""
    # Without it, Ray warns of a change to come in how it hides GPUs from workers that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    if address is not None:
        _check_reachable(address)
    local = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except ValueError:  # it found a running cluster, for which local options are refused
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        hint = "if it uses token authentication, set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN) before Python starts"
        raise ConfigurationError(f"no Ray cluster at {address}: {error}; {hint}") from None


def _check_reachable(address: str) -> None:
    """Ray itself tries a wrong address for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None


@dataclass(frozen=True)
class Workers:
    """The actors of one engine."""

    encoders: list[Any]
    decoders: list[Any]
    facts: dict[str, Any] = field(default_factory=dict)  # what the workers said of themselves
    links: list[tuple[str, bytes]] = field(default_factory=list)  # of each decoder's `CommandReceiver`

    @property
    def all(self) -> list[Any]:
        return [*self.encoders, *self.decoders]

    def kill(self) -> None:
        for worker in self.all:
            ray.kill(worker, no_restart=True)


def launch(model: ModelConfig, config: EngineConfig, timestamps: TimestampRules | None, address: str, token: bytes) -> Workers:
    """Starts all workers and loads them in parallel. Raises what their loading raised; nothing is left running then.

    One engine of a process at a time: each asks for the CPUs that the ones before have left.
    """
    with _launching:
        return _launch(model, config, timestamps, address, token)


def _launch(model: ModelConfig, config: EngineConfig, timestamps: TimestampRules | None, address: str, token: bytes) -> Workers:
    colocated = _colocates(config)
    # Two OpenMP pools (torch's and Numba's) share a worker's cores: threads that spin while they wait starve each other.
    environment = {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    count = config.decoder.decoder_replicas + (0 if colocated else config.encoder.encoder_replicas)
    remote = {"runtime_env": environment, "concurrency_groups": {"watch": 1}, "max_restarts": 0, **_resources(config, count)}
    decoder = ray.remote(**remote)(ColocatedHost if colocated else DecoderHost)
    encoder = ray.remote(**remote)(EncoderHost)
    encoders = [] if colocated else [encoder.remote() for _ in range(config.encoder.encoder_replicas)]
    decoders = [decoder.remote() for _ in range(config.decoder.decoder_replicas)]
    workers = Workers(encoders, decoders)
    loading = [worker.load.remote(model, config) for worker in encoders]
    loading += [worker.load.remote(model, config, index, timestamps) for index, worker in enumerate(decoders)]
    try:
        facts = _get(loading, config.placement.startup_timeout)
        connecting = [worker.connect.remote(decoders) for worker in encoders]
        connecting += [worker.connect.remote(encoders, address, token) for worker in decoders]
        links = _get(connecting, config.placement.startup_timeout)[len(encoders) :]
    except BaseException:
        workers.kill()
        raise
    placement = "colocated" if colocated else "disaggregated"
    return replace(workers, facts={"placement": placement, **facts[0], **facts[-1]}, links=links)


def _gpus(config: EngineConfig) -> float:
    """GPUs of the cluster that this engine may use."""
    found = float(ray.cluster_resources().get("GPU", 0.0))
    if config.model.device == "cuda" and not found:
        raise ConfigurationError("device='cuda' but this Ray cluster has no GPU: use device='cpu' or add a GPU node")
    return 0.0 if config.model.device == "cpu" else found


def _colocates(config: EngineConfig) -> bool:
    """Whether encoder and decoder share processes. 'auto': when there are GPUs, but not one for each worker."""
    placement, gpus = config.placement.placement, _gpus(config)
    encoders, decoders = config.encoder.encoder_replicas, config.decoder.decoder_replicas
    if placement == "auto":
        return 0 < gpus < encoders + decoders and encoders == decoders
    if placement == "colocated" and encoders != decoders:
        raise ConfigurationError(
            f"placement='colocated' puts one encoder beside each decoder: encoder_replicas={encoders} != decoder_replicas={decoders}"
        )
    return placement == "colocated"


def _resources(config: EngineConfig, count: int) -> dict[str, float]:
    """What to ask Ray for per worker. Too few CPUs must not keep an engine from starting: then it asks for none."""
    gpus = _gpus(config)
    share = min(1.0, int(gpus * 100 / count) / 100)
    return {"num_cpus": 1.0 if ray.available_resources().get("CPU", 0.0) >= count else 0.0, "num_gpus": share}


def _get(references: list[Any], timeout: float) -> list[Any]:
    try:
        found: list[Any] = ray.get(references, timeout=timeout)
        return found
    except AntiphonError as error:  # Ray raises a mixture of its own class and ours: unwrap ours
        raise getattr(error, "cause", error) from None
    except ray.exceptions.GetTimeoutError:
        raise EngineDeadError(
            f"the workers did not start within {timeout:g} s: raise startup_timeout, or free resources in the cluster"
        ) from None
    except ray.exceptions.RayError as error:
        raise EngineDeadError(f"a worker failed while it started: {error}") from error
