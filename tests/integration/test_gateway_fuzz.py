"""Whatever the OpenAPI document allows or forbids: never a 5xx, and what it forbids is refused."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from functools import partial
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.support.gateway_server import Stage

EXAMPLES = {mode: int(os.environ.get("HEADSTART_FUZZ_EXAMPLES", default)) for mode, default in zip(GenerationMode, (8, 4), strict=True)}
"""For each operation, allowed and forbidden; forbidden ones are the slower to make."""
BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def not_a_server_error(_: Any, response: Any, case: Any) -> None:
    assert response.status_code < 500, f"{case.as_curl_command()} was answered {response.status_code}: {response.text}"


def can_be_wrong(operation: dict[str, Any]) -> bool:
    """Every text is an id of somebody: with nothing but its path, an operation can be asked nothing that the document forbids."""
    return "requestBody" in operation or any(parameter["in"] != "path" for parameter in operation.get("parameters", ()))


def fuzz(url: str, mode: GenerationMode) -> Counter[int]:
    """Runs in a thread of its own: the gateway lives in the test's event loop. Answers by status."""
    answers: Counter[int] = Counter()
    checks = [not_a_server_error, *([negative_data_rejection] if mode is GenerationMode.NEGATIVE else [])]

    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "org/tiny"  # a name from nowhere would end every case at the door
        response = case.call(base_url=url, timeout=30)
        answers[response.status_code] += 1
        case.validate_response(response, checks=checks)

    for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # an Err raises, and should
        if mode is GenerationMode.POSITIVE or can_be_wrong(operation.definition.raw):
            settings(BOUNDED, max_examples=EXAMPLES[mode])(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    return answers


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", list(GenerationMode))
async def test_the_whole_document(stage: Stage, mode: GenerationMode) -> None:
    answers = await asyncio.get_running_loop().run_in_executor(None, partial(fuzz, stage.served.url, mode))
    assert sum(answers.values()) > 6 * EXAMPLES[mode]
    assert {400, 404} <= set(answers)
    if mode is GenerationMode.POSITIVE:
        assert answers[200] > EXAMPLES[mode]
    assert (await stage.served.http.post("/v1/completions", json={"model": "org/tiny", "prompt": "still there"})).status_code == 200
