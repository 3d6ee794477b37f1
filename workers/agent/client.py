"""Asks agents, from wherever the broker can be reached."""

from __future__ import annotations

from typing import Any

from celery.exceptions import TimeoutError as NoAnswer
from kombu.exceptions import OperationalError

from shared.errors import BadRequest, FabricUnavailable
from shared.messages import AgentInfo
from workers.agent.control import LAUNCH, LIST, STOP, host_queue, make_app
from workers.agent.settings import LaunchSpec

ANSWER_S = 15.0


class AgentClient:
    """Blocking calls; one answer each. What no agent takes in time expires unread."""

    def __init__(self, broker: str, answer_s: float = ANSWER_S) -> None:
        self._app = make_app(broker)
        self._answer_s = answer_s

    def launch(self, agent: AgentInfo, spec: LaunchSpec) -> dict[str, Any]:
        """The worker's row. Raises `BadRequest` for a bad spec, `FabricUnavailable` without an answer."""
        row: dict[str, Any] = self._ask(agent, LAUNCH, spec=spec.to_json())
        return row

    def stop(self, agent: AgentInfo, name: str, drain_s: float | None = None) -> dict[str, Any] | None:
        row: dict[str, Any] | None = self._ask(agent, STOP, name=name, drain_s=drain_s)
        return row

    def list(self, agent: AgentInfo) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._ask(agent, LIST)
        return rows

    def close(self) -> None:
        self._app.close()

    def _ask(self, agent: AgentInfo, task: str, **arguments: object) -> Any:
        try:
            sent = self._app.send_task(task, kwargs=arguments, queue=host_queue(agent.queue), expires=self._answer_s, retry=False)
            answer = sent.get(timeout=self._answer_s)
        except NoAnswer as error:
            raise FabricUnavailable(f"the agent of {agent.host} did not answer within {self._answer_s:g} s") from error
        except OperationalError as error:
            raise FabricUnavailable(f"Celery's broker cannot be reached ({error}): correct HEADSTART_CELERY_URL") from error
        if "error" in answer:
            raise BadRequest(f"the agent of {agent.host} refused: {answer['error']}", answer["param"])
        return answer["ok"]
