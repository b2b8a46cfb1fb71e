"""Speech recognition and text generation as a stage of Ray Data, with the names of `ray.data.llm`:

from antiphon.jobs.ray_data import AntiphonEngineProcessorConfig, build_processor

config = AntiphonEngineProcessorConfig(model_source="openai/whisper-small", concurrency=4)
processor = build_processor(config, preprocess=lambda row: {"audio": row["path"]})
dataset = processor(ray.data.read_parquet("s3://bucket/calls"))
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import ray
from ray.data import ActorPoolStrategy, Dataset

from antiphon.config.errors import ConfigurationError, describe
from antiphon.config.option_values import number, whole_number
from antiphon.config.options import resolve
from antiphon.engine.async_engine import AsyncEngine
from antiphon.jobs.entries import Defaults, entry_of
from antiphon.jobs.formats import columns, flat
from antiphon.jobs.records import Record
from antiphon.jobs.restarts import EngineNotRestartedError, RestartingEngine

Row = dict[str, Any]
RowFunction = Callable[[Row], Row]

ERROR = "error"  # the column with the message of a row that failed; empty for others
SPEECH_COLUMNS = (
    "text",
    "language",
    "language_probability",
    "duration",
    "segments",
    "skipped",
    "finish_reason",
)
TEXT_COLUMNS = ("text", "finish_reason", "outputs")
RATES = ("sampling_rate", "sample_rate")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AntiphonEngineProcessorConfig:
    """`model_source`, `engine_kwargs`: as `AsyncEngine` takes them; each actor has its
    own engine, without further processes. Or `attach`: the name of a running engine
    that all actors share, as `AsyncEngine.attach` takes it. `call_kwargs`: keywords of
    transcribe() or generate() for all rows; `sampling_params`: likewise. A row's own
    columns of these names go first.

    `concurrency`: actors, or their least and largest number. `batch_size`: rows in one
    call; `max_concurrent_batches`: calls that an actor works on at a time.
    `should_continue_on_error`: a row that fails has its message in the column `error`,
    and does not end the dataset.

    `num_gpus`, `num_cpus`, `accelerator_type`, `runtime_env`: of each actor; by default
    one GPU in a cluster that has GPUs, and none for actors that share an engine.

    Raises ConfigurationError or SamplingError.
    """

    model_source: str = ""
    attach: str | None = None
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    call_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sampling_params: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int | tuple[int, int] = 1
    batch_size: int = 32
    max_concurrent_batches: int = 8
    should_continue_on_error: bool = False
    num_gpus: float | None = None
    num_cpus: float | None = None
    accelerator_type: str | None = None
    runtime_env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.attach is not None and (self.model_source or self.engine_kwargs):
            raise ConfigurationError("give model_source and engine_kwargs, or attach, not both")
        if self.engine_kwargs.get("ray"):
            raise ConfigurationError("engine_kwargs: ray=True is not for Ray Data's actors")
        if self.attach is None:
            resolve(self.model_source, self.engine_options)
        self._check_pool()
        for name in ("batch_size", "max_concurrent_batches"):
            whole_number(name, getattr(self, name))
        for name in ("num_gpus", "num_cpus"):
            if (amount := getattr(self, name)) is not None and amount != 0:
                number(name, amount)
        Defaults(True, sampling=self.sampling_params).params  # noqa: B018  it is checked

    def _check_pool(self) -> None:
        pool = self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency,)
        try:
            bounds = [whole_number("concurrency", count) for count in pool]
        except ConfigurationError:
            bounds = []
        if len(bounds) not in (1, 2) or bounds[0] > bounds[-1]:
            raise ConfigurationError(
                "concurrency must be a whole number above 0, or (least, largest), "
                f"not {self.concurrency!r}"
            )

    @property
    def engine_options(self) -> dict[str, Any]:
        return {**self.engine_kwargs, "ray": False}

    @property
    def pool(self) -> tuple[int, int]:
        """The least and the largest number of actors."""
        both = self.concurrency
        return (both, both) if isinstance(both, int) else both

    def actor_options(self) -> dict[str, Any]:
        """Keywords of `map_batches` for the actors' resources."""
        gpus = self.num_gpus
        if gpus is None and self.attach is None and self.engine_kwargs.get("device") != "cpu":
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        options = {
            "num_gpus": gpus,
            "num_cpus": self.num_cpus,
            "accelerator_type": self.accelerator_type,
            "runtime_env": None if self.runtime_env is None else dict(self.runtime_env),
        }
        return {name: value for name, value in options.items() if value}


class Processor:
    """Adds the columns of the results to a dataset; made by `build_processor`."""

    def __init__(
        self,
        config: AntiphonEngineProcessorConfig,
        preprocess: RowFunction | None,
        postprocess: RowFunction | None,
        preprocess_map_kwargs: Mapping[str, Any],
        postprocess_map_kwargs: Mapping[str, Any],
    ) -> None:
        self.config, self.preprocess, self.postprocess = config, preprocess, postprocess
        self._before, self._after = preprocess_map_kwargs, postprocess_map_kwargs

    def __call__(self, dataset: Dataset) -> Dataset:
        """Lazily, as all transformations of a dataset."""
        config = self.config
        if self.preprocess is not None:
            dataset = dataset.map(_Merged(self.preprocess), **self._before)
        least, largest = config.pool
        strategy = ActorPoolStrategy(
            min_size=least,
            max_size=largest,
            max_concurrent_calls_per_actor=config.max_concurrent_batches,
        )
        dataset = dataset.map_batches(
            EngineStage,
            fn_constructor_args=[config],
            batch_size=config.batch_size,
            batch_format="pyarrow",
            compute=strategy,
            **config.actor_options(),
        )
        if self.postprocess is not None:
            dataset = dataset.map(_Postprocessed(self.postprocess), **self._after)
        return dataset


def build_processor(
    config: AntiphonEngineProcessorConfig,
    preprocess: RowFunction | None = None,
    postprocess: RowFunction | None = None,
    preprocess_map_kwargs: Mapping[str, Any] | None = None,
    postprocess_map_kwargs: Mapping[str, Any] | None = None,
) -> Processor:
    """As `ray.data.llm.build_processor`.

    What `preprocess` returns is added to its row: `audio` (a path, an address, bytes,
    samples, or a mapping with samples and their rate), or `bytes`, or `amplitude` with
    `sample_rate`; or `text` or `prompt`; and any settings of a manifest's line.
    `postprocess` gets the row with the results and returns what becomes of it; rows
    with an error pass it by.
    """
    if not isinstance(config, AntiphonEngineProcessorConfig):
        raise ConfigurationError(
            f"config must be an AntiphonEngineProcessorConfig, not {type(config).__name__}"
        )
    return Processor(
        config, preprocess, postprocess, preprocess_map_kwargs or {}, postprocess_map_kwargs or {}
    )


@dataclass(frozen=True)
class _Merged:
    function: RowFunction

    def __call__(self, row: Row) -> Row:
        return {**row, **self.function(row)}


@dataclass(frozen=True)
class _Postprocessed:
    function: RowFunction

    def __call__(self, row: Row) -> Row:
        return row if row[ERROR] else {**self.function(row), ERROR: ""}


class EngineStage:
    """One engine in a Ray actor of its own. Weights load in the constructor."""

    def __init__(self, config: AntiphonEngineProcessorConfig) -> None:
        self._config = config
        self._engine = RestartingEngine(self._started, _end_process)
        self._defaults = Defaults(self._engine.speech, config.call_kwargs, config.sampling_params)

    async def _started(self) -> AsyncEngine:
        if self._config.attach is not None:
            return await AsyncEngine.attach(self._config.attach)
        return await AsyncEngine(self._config.model_source, **self._config.engine_options).start()

    async def __call__(self, batch: pyarrow.Table) -> AsyncIterator[pyarrow.Table]:
        rows = batch.to_pylist()
        results = await asyncio.gather(*(self._result(row) for row in rows))
        yield self._with_columns(batch, results)

    async def _result(self, row: Row) -> Record:
        try:
            record = await self._engine.perform(entry_of(0, _content(row), self._defaults))
            # Other columns of the row (`fields`) stay as they are, of whatever type.
            results = flat({name: record[name] for name in self._columns if name in record})
            return {**results, ERROR: ""}
        except EngineNotRestartedError:
            raise  # no fault of the row
        except Exception as error:
            if not self._config.should_continue_on_error:
                raise
            return {ERROR: describe(error)}

    @property
    def _columns(self) -> tuple[str, ...]:
        return SPEECH_COLUMNS if self._engine.speech else TEXT_COLUMNS

    def _with_columns(self, batch: pyarrow.Table, results: list[Record]) -> pyarrow.Table:
        types = {**columns(pyarrow), ERROR: pyarrow.string()}
        for name in (*self._columns, ERROR):
            values = pyarrow.array([result.get(name) for result in results], types[name])
            if name in batch.column_names:
                batch = batch.set_column(batch.column_names.index(name), name, values)
            else:
                batch = batch.append_column(name, values)
        return batch


def _end_process() -> None:
    """Ends an actor's first process: Ray starts another one, and gives it the batches
    that this one had. Later ones go on: a row that kills each engine would else be
    tried for ever."""
    if not ray.is_initialized():
        return
    context = ray.get_runtime_context()
    if context.get_actor_id() is not None and not context.was_current_actor_reconstructed:
        logger.error("this process ends, for Ray to start another one")
        os._exit(1)


def _content(row: Row) -> Row:
    """A row as a line of a manifest. Columns that readers of Ray Data make for sound
    become `audio`: `bytes` of files, `amplitude` or `array` with a rate."""
    content = {name: value for name, value in row.items() if value is not None}
    if "audio" in content:
        return content
    rate = next((content.pop(name) for name in RATES if name in content), None)
    if "bytes" in content:
        content["audio"] = content.pop("bytes")
    elif rate is not None:
        for name in ("amplitude", "array"):
            if name in content:
                content["audio"] = (content.pop(name), rate)
    if "audio" in content:
        content.pop("path", None)  # where the bytes are from
    return content
