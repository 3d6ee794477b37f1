"""The control plane's Celery: the application, its three tasks, and the step that ties the keeper to the worker's life.

JSON alone goes in and out. Tasks are short and can be repeated: each names a desired state and answers at once.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import SecurityWarning
from kombu import Exchange, Queue

from shared.errors import BadRequest
from shared.keys import CELERY_PREFIX
from shared.messages import ManagedWorker
from workers.agent.keeper import Keeper
from workers.agent.settings import LaunchSpec

LAUNCH, STOP, LIST = "headstart.launch", "headstart.stop", "headstart.list"
ANSWER_TTL_S = 60

Json = dict[str, Any]


def make_app(broker: str) -> Celery:
    """The application that agents run and callers send with."""
    app = Celery("headstart", broker=broker, backend=broker, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        result_accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_expires=ANSWER_TTL_S,
        task_ignore_result=False,
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"global_keyprefix": CELERY_PREFIX, "visibility_timeout": 3600},
        result_backend_transport_options={"global_keyprefix": CELERY_PREFIX},
        redis_retry_on_timeout=True,
    )
    return app


def host_queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def serve_host(broker: str, keeper: Keeper, queue: str, host: str) -> int:
    """Runs the host's Celery worker on this thread until it is told to stop; returns its exit status."""
    app = make_app(broker)
    app.conf.task_queues = [host_queue(queue)]
    _add_tasks(app, keeper)
    app.steps["worker"].add(_step_of(keeper))
    # It warns that the superuser must not read pickles; nobody here reads any.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        hostname=f"agent@{host}",
        pool="solo",
        concurrency=1,
        loglevel=None,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _step_of(keeper: Keeper) -> type[bootsteps.StartStopStep]:
    class KeeperStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Celery's warm shutdown ends with this: every worker drained, no process left."""

        def start(self, parent: object) -> None: ...

        def stop(self, parent: object) -> None:
            keeper.stop()

        terminate = stop

    return KeeperStep


def _add_tasks(app: Celery, keeper: Keeper) -> None:
    @app.task(name=LAUNCH)  # type: ignore[untyped-decorator]
    def launch(spec: Json) -> Json:
        return _answer(lambda: row_json(keeper.launch(LaunchSpec.of_json(spec))))

    @app.task(name=STOP)  # type: ignore[untyped-decorator]
    def stop(name: str, drain_s: float | None = None) -> Json:
        return _answer(lambda: row_json(keeper.drain(name, drain_s)))

    @app.task(name=LIST)  # type: ignore[untyped-decorator]
    def workers() -> Json:
        return _answer(lambda: [row_json(row) for row in keeper.workers()])


def _answer(step: Any) -> Json:
    """A refusal is an answer: exceptions of ours need not be known where it is read."""
    try:
        return {"ok": step()}
    except BadRequest as error:
        return {"error": str(error), "param": error.param}


def row_json(row: ManagedWorker | None) -> Json | None:
    return None if row is None else {**dataclasses.asdict(row), "options": list(row.options)}
