"""Programs in processes of their own, forked from one that has imported what they all import.

Starting Python and importing the command line takes longer than most mistakes take to be told.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

LIMIT_SECONDS = 240.0
PROCESSES: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}  # servers, by what they import
COMMANDS = ("antiphon.cli.app", "pydantic.fields", "pydantic.type_adapter", "typer._adapters")
CHECKS = (
    *COMMANDS,
    "antiphon.cli.preflight",
    "antiphon.families.registry",
    "antiphon.inputs.calls.transcription",
    "antiphon.jobs.batch",
    "av",
)
ENGINES = (
    *CHECKS,
    "antiphon.decoder.runner",
    "antiphon.engine.sync_engine",
    "antiphon.kernels.cpu_paged_attention",
    "ray",
    "transformers.models.auto.tokenization_auto",
)
MAIN = "from antiphon.cli import main\nmain()"

# Frozen, what is imported is neither visited nor copied by the collections of each child's exit,
# which took longer than most children run.
SERVER = """
import gc, json, os, socket, sys
requests = socket.socket(fileno=int(sys.argv[1]))
for module in sys.argv[2:]:
    __import__(module)
gc.collect()
gc.freeze()
while True:
    message, files, _, _ = socket.recv_fds(requests, 2**20, 3)
    if not message:
        os._exit(0)
    child = os.fork()
    if child == 0:
        break
    for file in files:
        os.close(file)
    requests.sendall(json.dumps(child).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    requests.sendall(json.dumps(code).encode())
requests.close()
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
program, sys.argv, directory, environment = json.loads(message)
os.chdir(directory)
os.environ.clear()
os.environ.update(environment)
del message, files, requests, child
exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
"""


@dataclass
class Running:
    """A command that runs; its server takes another one when it has ended."""

    pid: int
    _arguments: tuple[str, ...]
    _imported: tuple[str, ...]
    _streams: list[IO[bytes]]
    is_completed: bool = False

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Waits for its end."""
        self.is_completed = True
        code = _answer(self._imported)
        texts = []
        for stream in self._streams[1:]:
            stream.seek(0)
            texts.append(stream.read().decode())
        return subprocess.CompletedProcess(["-c", *self._arguments], code, *texts)


@contextmanager
def started(
    program: str, *arguments: str, stdin: bytes = b"", imported: tuple[str, ...] = COMMANDS
) -> Iterator[Running]:
    """As `python -c program arguments`, but for modules `imported` before it begins. One that is
    not completed in the block, for one because that raises, is killed."""
    command = json.dumps([program, ["-c", *arguments], os.getcwd(), dict(os.environ)]).encode()
    with ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(stdin)
        streams[0].seek(0)
        socket.send_fds(_server(imported), [command], [stream.fileno() for stream in streams])
        running = Running(_answer(imported), arguments, imported, streams)
        try:
            yield running
        finally:
            if not running.is_completed:
                _end(imported)  # its code would be taken for the next command's answer


def run(
    program: str, *arguments: str, stdin: bytes = b"", imported: tuple[str, ...] = COMMANDS
) -> subprocess.CompletedProcess[str]:
    """As `started`, to its end."""
    with started(program, *arguments, stdin=stdin, imported=imported) as running:
        return running.completed()


def _answer(imported: tuple[str, ...]) -> int:
    try:
        return int(json.loads(_server(imported).recv(64)))
    except TimeoutError:
        _end(imported)  # its answer would be taken for the next command's
        raise


def _end(imported: tuple[str, ...]) -> None:
    """Kills the server with its child, which hangs or is not waited for."""
    _server(imported)
    os.killpg(PROCESSES.pop(imported).pid, signal.SIGKILL)
    _server.cache_clear()


@functools.cache
def _server(imported: tuple[str, ...]) -> Any:
    """It ends when this process closes its end. What modules read of the environment as they are
    imported is that of the first call."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(LIMIT_SECONDS)
    command = [sys.executable, "-c", SERVER, str(theirs.fileno()), *imported]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    PROCESSES[imported] = process
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
