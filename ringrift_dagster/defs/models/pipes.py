"""A Dagster Pipes client for commands that run on a training host over ssh, detached from the run.

Starting, following and cancelling are `models.training_jobs`; this is how they appear in a run. A client is for one host and one
asset's partition, so it is no resource: ops and assets make one where they know both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg
from dagster_pipes import (
    PIPES_PROTOCOL_VERSION,
    PIPES_PROTOCOL_VERSION_FIELD,
    PipesContextData,
    PipesDefaultMessageWriter,
    PipesExtras,
    PipesMessage,
    PipesParams,
)

from ringrift_dagster.models.training_jobs.jobs import JobState, TrainingJob, follow, start, state
from ringrift_dagster.models.training_jobs.lines import progress
from ringrift_dagster.models.training_jobs.remote import TrainingHost

MAX_LOGGED_LINES: Final = 2000
"""Of one run. Dagster keeps each as an event, for ever; the whole output stays on the host."""

Context = dg.OpExecutionContext | dg.AssetExecutionContext


class TrainingInvocation(dg.PipesClientCompletedInvocation):
    """A command that is over, however it ended.

    `state` is what the host says of it, `metrics` has the last value of each that was reported.
    """

    def __init__(self, session: dg.PipesSession, state: JobState, metrics: Mapping[str, Any]) -> None:
        super().__init__(session, metadata={"job's directory": state.folder})
        self.state = state
        self.metrics = metrics

    @property
    def reported_metadata(self) -> Mapping[str, Any]:
        """The metadata of what the command reported as materialised, and the job's directory."""
        results = [
            result for result in self.get_results(implicit_materializations=False) if isinstance(result, dg.MaterializeResult)
        ]
        return {name: value for result in results for name, value in (result.metadata or {}).items()} | dict(self.metadata)


class TrainingPipesClient(dg.PipesClient):
    """Runs a training job, or finds it again if it was started before.

    The command may speak Pipes: its context is in its environment, its messages come from a file in the job's directory. For one
    that does not, lines of its standard output that are JSON objects with an `epoch` become custom messages of Pipes. Such messages
    are given to `on_progress`, whoever wrote them; other lines go to the run's log, and to `on_output`.

    `asset` and `partition` are what the command sees as its asset, for `report_asset_materialization`. The host may be out of reach
    for `patience` seconds.
    """

    def __init__(self, host: TrainingHost, *, asset: str, partition: str, patience: float) -> None:
        self._host = host
        self._asset = asset
        self._partition = partition
        self._patience = patience

    def run(  # type: ignore[override] - as every client, with arguments of its own
        self,
        *,
        context: Context,
        extras: PipesExtras | None = None,
        job: TrainingJob,
        data_path: Callable[[], str],
        may_start: bool = True,
        on_started: Callable[[JobState], None] = lambda _: None,
        on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
        on_output: Callable[[str], None] = lambda _: None,
    ) -> TrainingInvocation:
        """Run the job to its end. `data_path` is asked for if the job is to be started; `on_started` hears also of one that was.

        Without `may_start` a job that the host does not know stays `absent`. Raises TrainingHostError. An interrupt leaves the
        command alone: whether to cancel it is for the caller to decide.
        """
        known = state(self._host, job)
        messages = _Messages(f"{known.folder}/messages")
        injector = _ContextInEnvironment(self._asset, self._partition)
        log, last = _Log(context), {}

        def on_line(stream: str, line: str) -> None:
            if stream == "messages":
                metrics = messages.take(line, log)
            elif metrics := progress(line) if stream == "stdout" else None:
                messages.custom(metrics)
            else:
                on_output(line)
                log.info(line)
            if metrics:
                last.update(metrics)
                on_progress(metrics)

        with dg.open_pipes_session(context, injector, messages, extras) as session:
            if known.state == "absent" and may_start:
                known, by_us = start(self._host, job, data_path(), dict(session.get_bootstrap_env_vars()))
            else:
                by_us = False
            context.log.info(
                f"job {job.id} {'was started' if by_us else f'is {known.state}'} on {self._host.name}, in {known.folder}"
            )
            on_started(known)
            if known.process is not None:
                known = follow(self._host, job, on_line, patience=self._patience, on_break=context.log.warning)
            messages.close()
            return TrainingInvocation(session, known, last)


class _ContextInEnvironment(dg.PipesEnvContextInjector):
    """Gives the command its context, with the asset that its run materialises."""

    def __init__(self, asset: str, partition: str) -> None:
        self._asset = asset
        self._partition = partition

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        with_asset: PipesContextData = {
            **context_data,
            "asset_keys": [self._asset],
            "code_version_by_asset_key": {self._asset: None},
            "provenance_by_asset_key": {self._asset: None},
            "partition_key": self._partition,
        }
        with super().inject_context(with_asset) as params:
            yield params


class _Messages(dg.PipesMessageReader):
    """Hands on the command's messages, which the client reads, and speaks for a command that has none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handler: Any = None

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[PipesParams]:
        self._handler = handler
        yield {
            PipesDefaultMessageWriter.FILE_PATH_KEY: self._path,
            PipesDefaultMessageWriter.INCLUDE_STDIO_IN_MESSAGES_KEY: False,
        }

    def take(self, line: str, log: _Log) -> dict[str, Any] | None:
        """A line of the file of messages; the metrics in it, if it reports any. What is no message is passed over, and logged."""
        try:
            message = json.loads(line)
            if PIPES_PROTOCOL_VERSION_FIELD not in message:
                raise ValueError("no protocol version")
            if message["method"] == "log" and not log.may():
                return None
            self._handler.handle_message(message)
            return progress(json.dumps(message["params"]["payload"])) if message["method"] == "report_custom_message" else None
        except dg.DagsterExecutionInterruptedError:
            raise
        except Exception as error:  # whatever a foreign program wrote there
            log.info(f"a Pipes message was not understood ({type(error).__name__}): {line[:200]}")
            return None

    def custom(self, payload: Mapping[str, Any]) -> None:
        """Report something for the command."""
        self._open()
        self._send("report_custom_message", {"payload": dict(payload)})

    def close(self) -> None:
        """End the session for a command that did not."""
        self._open()
        if not self._handler.received_closed_message:
            self._send("closed", {})

    def _open(self) -> None:
        if not self._handler.received_opened_message:
            self._send("opened", {})

    def _send(self, method: str, params: Mapping[str, Any]) -> None:
        self._handler.handle_message(
            PipesMessage({PIPES_PROTOCOL_VERSION_FIELD: PIPES_PROTOCOL_VERSION, "method": method, "params": params})  # type: ignore[typeddict-item]
        )

    def no_messages_debug_text(self) -> str:
        return f"Attempted to read messages from {self._path} of the training host."


class _Log:
    """The run's log, for a bounded number of lines."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._left = MAX_LOGGED_LINES

    def may(self) -> bool:
        """Whether one more line may be logged; says so if it was the last."""
        self._left -= 1
        if self._left == 0:
            self._context.log.warning(f"after {MAX_LOGGED_LINES} lines the rest of the output is on the host alone")
        return self._left > 0

    def info(self, line: str) -> None:
        if self.may():
            self._context.log.info(line)
