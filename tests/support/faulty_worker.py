"""`headstart worker` with an engine that works for some steps; then it hangs or fails for ever, as its name says: `hangs`, `fails`."""

from __future__ import annotations

import sys
import threading

from cli.main import main
from shared.errors import EngineError
from workers.engine import StepResult
from workers.fake_engine import FakeEngine

GOOD_STEPS = 6
KIND = sys.argv[sys.argv.index("--name") + 1].partition("-")[0]
sound = FakeEngine.collect
steps = 0


def collect(engine: FakeEngine) -> StepResult:
    global steps
    steps += 1
    if steps > GOOD_STEPS and KIND == "hangs":
        threading.Event().wait()
    result = sound(engine)
    if steps > GOOD_STEPS:
        raise EngineError("planned for ever")
    return result


if __name__ == "__main__":
    FakeEngine.collect = collect  # type: ignore[method-assign,assignment]
    main()
