"""Mixed traffic on one of our servers: well-behaved clients, whose every answer is checked against
its reference, among others that leave, send nonsense or too much, and read slowly or not at all.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from antiphon.benchmarks.service.nuisances import TIMEOUT, Material, Nuisances, WrongAnswer
from antiphon.benchmarks.service.spoken import samples_of, spoken
from antiphon.benchmarks.service.wire import (
    Asker,
    connection,
    events_of,
    raw_request,
    read_slowly,
    status_of,
)

SHARES: Mapping[str, int] = {  # of each kind of client among a hundred
    "transcription": 14, "timed transcription": 8, "streamed transcription": 12, "spoken chat": 4,
    "realtime session": 6,
    "completion": 12, "streamed completion": 14, "slow reader": 6, "leaves": 10, "never reads": 3,
    "malformed": 7, "oversized": 4,
}  # fmt: skip


@dataclass
class Tally:
    """Of one kind of client. `problems`: wrong answers and failures."""

    count: int = 0
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Traffic:
    """Clients of one server."""

    def __init__(self, material: Material) -> None:
        self._of, self._draw = material, material.draw
        self.expected: dict[str, str] = {}  # texts by recording or prompt
        samples = {name: samples_of(sound) for name, sound in material.recordings.items()}
        # Of recordings that a session's buffer has room for.
        self._samples = {name: own for name, own in samples.items() if len(own) <= material.limit}
        self.tallies = {kind: Tally() for kind in SHARES}
        self._http = httpx.AsyncClient(
            base_url=material.url, timeout=TIMEOUT, limits=httpx.Limits(max_connections=None)
        )
        self._asker = Asker(self._http)
        nuisances = Nuisances(material, self._asker)
        self._actions: dict[str, Callable[[], Awaitable[None]]] = {
            "transcription": self._transcription, "timed transcription": self._timed,
            "streamed transcription": self._streamed_transcription, "spoken chat": self._spoken,
            "realtime session": self._session,
            "completion": self._completion, "streamed completion": self._streamed_completion,
            "slow reader": self._slow_reader, "leaves": nuisances.leaves,
            "never reads": nuisances.never_reads, "malformed": nuisances.malformed,
            "oversized": nuisances.oversized,
        }  # fmt: skip

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def reconnected(self) -> int:
        """How often a connection closed before any byte of an answer, which was asked for again."""
        return self._asker.closed

    async def learn(self) -> None:
        """What each input gives while nothing disturbs it."""
        for name in self._of.recordings:
            self.expected[name] = (await self._transcribed(name, "json"))["text"]
        for name in self._samples:
            self.expected[_in_session(name)], _ = await self._said(name)
        for text in self._of.texts:
            reply = await self._post("/v1/completions", json=self._of.prompt(text))
            self.expected[text] = reply.json()["choices"][0]["text"]

    async def run(self, callers: int, enough: Callable[[], bool]) -> dict[str, Tally]:
        """`callers` clients at a time, until it is `enough`."""
        kinds, weights = list(SHARES), list(SHARES.values())

        async def caller() -> None:
            while not enough():
                await self._one(*self._draw.choices(kinds, weights))

        await asyncio.gather(*(caller() for _ in range(callers)))
        return self.tallies

    async def _one(self, kind: str) -> None:
        tally, began = self.tallies[kind], time.monotonic()
        try:
            await self._actions[kind]()
        except Exception as error:
            tally.problems.append(f"{kind}: {type(error).__name__}: {error}"[:500])
        tally.count += 1
        tally.seconds.append(time.monotonic() - began)

    # ------------------------------------------------------------------ well-behaved clients

    async def _post(self, path: str, **content: Any) -> httpx.Response:
        reply = await self._asker.post(path, **content)
        if reply.status_code != 200:
            raise WrongAnswer(f"status {reply.status_code}: {reply.text[:300]}")
        return reply

    async def _transcribed(self, name: str, response_format: str) -> Any:
        form = self._of.form(name, response_format=response_format)
        return (await self._post("/v1/audio/transcriptions", **form)).json()

    def _check(self, what: str, text: str, part: str = "text") -> None:
        if text != self.expected[what]:
            raise WrongAnswer(f"{part} of {what!r}: {text!r}, not {self.expected[what]!r}")

    async def _transcription(self) -> None:
        name = self._of.recording()
        self._check(name, (await self._transcribed(name, "json"))["text"])

    async def _timed(self) -> None:
        name = self._of.recording()
        reply = await self._transcribed(name, "verbose_json")
        ends = [segment["end"] for segment in reply["segments"]]
        if ends != sorted(ends) or any(end > reply["duration"] + 1 for end in ends):
            raise WrongAnswer(f"segments of {name!r} end at {ends}")
        if not reply["text"] and self.expected[name]:
            raise WrongAnswer(f"no text of {name!r}")

    async def _streamed_transcription(self) -> None:
        name = self._of.recording()
        reply = await self._raw("/v1/audio/transcriptions", **self._of.form(name, stream="true"))
        self._check_heard(name, reply)

    def _check_heard(self, name: str, answer: bytes) -> None:
        *deltas, done = _events(answer)
        self._check(name, done["text"])
        self._check(name, "".join(event["delta"] for event in deltas), "deltas")

    async def _spoken(self) -> None:
        name = self._of.recording()
        body = {"model": self._of.ears, "messages": _spoken_message(self._of.recordings[name])}
        reply = (await self._post("/v1/chat/completions", json=body)).json()
        self._check(name, reply["choices"][0]["message"]["content"])

    async def _session(self) -> None:
        name = self._of.draw.choice(list(self._samples))
        transcript, pieces = await self._said(name)
        self._check(_in_session(name), transcript)
        self._check(_in_session(name), pieces, "deltas")

    async def _said(self, name: str) -> tuple[str, str]:
        async with asyncio.timeout(TIMEOUT):
            return await spoken(self._of.url, self._of.ears, self._samples[name])

    async def _completion(self) -> None:
        texts = [self._of.text() for _ in range(self._draw.randint(1, 4))]
        body = {"model": self._of.reader, "prompt": texts}
        choices = (await self._post("/v1/completions", json=body)).json()["choices"]
        if [choice["index"] for choice in choices] != list(range(len(texts))):
            raise WrongAnswer(f"{len(texts)} prompts have {len(choices)} answers")
        for text, choice in zip(texts, choices, strict=True):
            self._check(text, choice["text"])

    async def _streamed_completion(self) -> None:
        text = self._of.text()
        self._check_read(text, await self._raw("/v1/completions", json=self._streamed(text)))

    def _streamed(self, text: str) -> dict[str, Any]:
        return self._of.prompt(text, stream=True, stream_options={"include_usage": True})

    def _check_read(self, text: str, answer: bytes) -> None:
        """One text, one end, one usage, in this order."""
        *parts, usage, done = _events(answer)
        if done is not None or not usage["usage"]["completion_tokens"]:
            raise WrongAnswer(f"a stream of {text!r} ends with {usage}, {done}")
        ends = [part["choices"][0]["finish_reason"] for part in parts]
        if any(ends[:-1]) or ends[-1] != "stop":
            raise WrongAnswer(f"ends of a stream of {text!r}: {ends}")
        self._check(text, "".join(part["choices"][0]["text"] for part in parts), "stream")

    async def _raw(self, path: str, *, pause: float = 0.0, **content: Any) -> bytes:
        """A stream's bytes, read at once or slowly."""
        async with (
            asyncio.timeout(TIMEOUT),
            connection(self._of.url, slow=pause > 0) as (read, write),
        ):
            write.write(raw_request(self._of.url, "POST", path, **content))
            return await read_slowly(read, pause, 64 if pause else 1 << 16)

    async def _slow_reader(self) -> None:
        pause = self._draw.uniform(0.01, 0.05)
        if self._draw.random() < 0.5:
            text = self._of.text()
            path, content = "/v1/completions", {"json": self._streamed(text)}
            self._check_read(text, await self._raw(path, pause=pause, **content))
        else:
            name = self._of.recording()
            form = self._of.form(name, stream="true")
            answer = await self._raw("/v1/audio/transcriptions", pause=pause, **form)
            self._check_heard(name, answer)


def _in_session(name: str) -> str:
    """What is heard in a session: other samples than those of the file."""
    return f"{name} in a session"


def _spoken_message(content: bytes) -> list[dict[str, Any]]:
    data = base64.b64encode(content).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return [{"role": "user", "content": [sound]}]


def _events(answer: bytes) -> list[Any]:
    if status_of(answer) != 200:
        raise WrongAnswer(f"instead of a stream: {answer[:400]!r}")
    return events_of(answer)
