"""serve: a registered model, or a run's, behind MLflow's scoring protocol.

    socket ─ bound first ─▶ model fetched, checked, warmed ─▶ requests
                                     ▲
              --follow: the alias moved ─ every few seconds ─ another version, in the same way

One replica lives in this process; more of them, or a cluster, are worker processes behind the same front end.
"""

import asyncio
import contextlib
import os
import shlex
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import uvicorn

from components import bundles
from components.errors import BusyError, DataError, ModelError, RecurraError
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding
from pipeline.backends.cluster import Cluster
from pipeline.backends.registry import Registry, Version
from pipeline.backends.tracking import Store
from pipeline.backends.workspace import run_bundle
from pipeline.console import Console
from pipeline.jobs.application import Serving, application
from pipeline.jobs.batching import Batcher, Model
from pipeline.jobs.protocol import Limits
from pipeline.jobs.replicas import Elsewhere, Here, Replica

PATIENCE_SECONDS = 20.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16
REGISTERED = "models:"  # what the name of a registered model begins with; any other is a run folder


@dataclass(frozen=True)
class Options:
    """How a model is served."""

    host: str
    port: int
    token: str | None
    hosts: tuple[str, ...]  # further names of this server
    replicas: int
    batch_wait: float  # seconds
    max_batch_rows: int
    limits: Limits
    follow: bool
    poll: float  # seconds
    grace: float  # seconds


def read_token(path: Path) -> str:
    """The token that stands in a file.

    Raises:
        DataError: there is none, a short one, or others on this machine can read it.
    """
    try:
        with path.open(encoding="utf8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The token file {path} cannot be read: {error}.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise DataError(
            f"The token file {path} is open to others on this machine (mode {mode:04o}).",
            hint=f"chmod 600 {shlex.quote(str(path))}",
        )
    if len(token) < MIN_TOKEN:
        hint = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one."
        raise DataError(f"The token in {path} has fewer than {MIN_TOKEN} characters.", hint=hint)
    return token


def serve(
    model: str,
    *,
    options: Options,
    tracking_uri: str,
    cluster: Cluster,
    scratch: Path | None,
    console: Console,
) -> None:
    """Answer requests until a signal.

    Raises:
        DataError: a host that others reach is named without a token.
        BusyError: the port is taken.
        ModelError: there is no such model, or its files are not those that were registered.
    """
    if options.host not in LOOPBACK and options.token is None:
        raise DataError(
            f"{options.host} can be reached by others, and there is no token.",
            hint="Give --token-file, or leave --host out.",
        )
    if options.follow and not ("@" in model and model.startswith(REGISTERED)):
        raise ModelError(f"--follow needs an alias, received {model!r}.", hint="Give models:/name@alias.")
    with _bound(options.host, options.port) as listening:
        source = _Source(model, options, tracking_uri, cluster, scratch, console)
        server = _Server(source, options, console)
        server.run(listening, source.load())


@contextlib.contextmanager
def _bound(host: str, port: int) -> Any:
    """A socket with the address, not yet listening: a port that is taken is seen before a model is loaded."""
    try:
        host.encode("idna")
    except UnicodeError:  # a part of the name is empty or too long
        raise DataError(f"--host is {host!r}, expected a name or an address of this machine.") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio leaves Nagle's algorithm on, and a lone client waits 40 ms for an answer.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, port))
        except OSError as error:
            raise BusyError(
                f"{host}:{port} cannot be used: {error.strerror or error}.",
                hint="Choose another with --port; 0 takes any that is free.",
            ) from error
        yield made


class _Source:
    """Where versions come from."""

    def __init__(
        self,
        model: str,
        options: Options,
        tracking_uri: str,
        cluster: Cluster,
        scratch: Path | None,
        console: Console,
    ) -> None:
        self.model, self.options, self.cluster = model, options, cluster
        self.scratch, self.console = scratch, console
        self.registry = Registry(Store(tracking_uri, patience=PATIENCE_SECONDS))
        self.about: dict[str, Any] = {}

    def now(self) -> Version | None:
        """The version that the model's name means at this moment; None of a run folder, which has none.

        Raises:
            ModelError: there is no such version, or the name is not of the kind that means one.
        """
        return self.registry.resolve(self.model) if self.model.startswith(REGISTERED) else None

    def load(self) -> Model:
        """Fetch, check and warm it."""
        with contextlib.ExitStack() as stack:
            bundle, uri = self._fetched(stack)
            encoding = bundles.encoding(bundle)
            replicas = self._replicas(bundle)
            for replica in replicas:
                # The first answer builds graphs; it had better not be a user's.
                replica.answer(_example(encoding), n_best=0, distribution=False)
            about = bundles.describe(bundle)
            self.about = {
                "model": uri,
                "name": about["name"],
                "task": about["task"],
                "digest": about["digest"],
                "labels": about["labels"],
                "columns": list(encoding.depths),
                "replicas": len(replicas),
            }
            return Model(uri, replicas, stack.pop_all())

    def _fetched(self, stack: contextlib.ExitStack) -> tuple[Path, str]:
        if (version := self.now()) is None:
            return run_bundle(self.model)
        return stack.enter_context(self.registry.fetch(version, parent=self.scratch)), version.uri

    def _replicas(self, bundle: Path) -> list[Replica]:
        if self.options.replicas == 1 and self.cluster.address is None:
            return [Here(bundle)]
        workers = self.cluster.workers(self.options.replicas)
        if len(workers) < self.options.replicas:
            self.console.warn(f"There is room for {len(workers)} of {self.options.replicas} replicas.")
        return [Elsewhere(bundle, worker, self.cluster, self.console.warn) for worker in workers]


def _example(encoding: Encoding) -> dict[str, list[Any]]:
    """One row of one step that every model of this encoding can read."""
    rows: dict[str, list[Any]] = {}
    for part in encoding.inputs:
        rows[part.column] = [[[0.0] * part.features]] if isinstance(part, NumericEncoding) else [["a"]]
    for part in encoding.context:
        rows[part.column] = [0.0 if isinstance(part, NumericEncoding) else "a"]
    return rows


class _Server:
    """One server process."""

    def __init__(self, source: _Source, options: Options, console: Console) -> None:
        self.source, self.options, self.console = source, options, console

    def run(self, listening: socket.socket, model: Model) -> None:
        """Answer until a signal; uvicorn raises it again once everything is answered."""
        host, port = listening.getsockname()[:2]
        hosts = (*LOOPBACK, *self.options.hosts) if self.options.host in LOOPBACK else self.options.hosts
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        async def answer_requests() -> None:
            batcher = Batcher(
                wait=self.options.batch_wait,
                max_rows=self.options.max_batch_rows,
                max_waiting=self.options.limits.max_waiting,
            )
            await batcher.serve(model)
            serving = Serving(
                batcher=batcher,
                limits=self.options.limits,
                mlflow_version=metadata.version("mlflow"),
                about=lambda: self.source.about,
                token=self.options.token,
                hosts=hosts,
                begin=lambda: self._follow(batcher),
                log=self.console.detail,
            )
            config = uvicorn.Config(
                application(serving),
                log_level="critical",
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=round(self.options.grace),
                server_header=False,
            )
            server = _Announcing(config, lambda: self._announce(url))
            await server.serve(sockets=[listening])

        asyncio.run(answer_requests())

    def _announce(self, url: str) -> None:
        about = self.source.about
        self.console.result(f"{about['model']} answers at {url}/invocations", {"url": url, **about})

    async def _follow(self, batcher: Batcher) -> None:
        """Change to another version when the alias moves; one that cannot be used is told and passed over."""
        told = ""
        while self.options.follow:
            await asyncio.sleep(self.options.poll)
            try:
                now = await asyncio.to_thread(self.source.now)
                if batcher.model is None or now is None or now.uri in (batcher.model.uri, told):
                    continue
                before, told = batcher.model.uri, now.uri
                fresh = await asyncio.to_thread(self.source.load)
                await batcher.serve(fresh)
                told = ""
                self.console.note(f"{fresh.uri} answers now, in place of {before}.")
            except RecurraError as error:
                self.console.warn(f"{error} The version before goes on.")


class _Announcing(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._announce()
