"""What a step's plan asks of the device, in the terms of its profile."""

from __future__ import annotations

import numpy as np

from shared.profile import StepShape
from workers.engine import StepPlan


def shape_of(plan: StepPlan) -> StepShape:
    """A row of one token behind others is a decode, everything else prefill."""
    counts = np.diff(plan.starts)
    decodes = (counts == 1) & (plan.contexts > 1)
    decode_context = int(plan.contexts[decodes].sum())
    return StepShape(
        prefill_tokens=int(counts[~decodes].sum()),
        prefill_context=int(plan.positions.sum()) + len(plan.positions) - decode_context,
        decodes=int(decodes.sum()),
        decode_context=decode_context,
    )
