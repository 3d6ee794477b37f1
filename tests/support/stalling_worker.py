"""`headstart worker` that stops itself (SIGSTOP) in the middle of the first transfer it sends: some parts have gone, some have not.

From outside nobody could hit that moment. Whoever started it sees the stopped process, and kills it or lets it go on.
"""

from __future__ import annotations

import os
import signal

from cli.main import main
from workers import ucx_board
from workers.ucx_outbound import Outbound, Sending, Sent

GONE = 2
"""The header and one segment."""


class StallingOutbound(Outbound):
    stalled = False

    def visit(self, now: float) -> list[Sent]:
        over = super().visit(now)
        if not StallingOutbound.stalled and any(map(_in_the_middle, self.sendings)):
            StallingOutbound.stalled = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return over


def _in_the_middle(sending: Sending) -> bool:
    return GONE <= sum(operation.done() for operation in sending.operations) < len(sending.operations)


if __name__ == "__main__":
    ucx_board.Outbound = StallingOutbound  # type: ignore[attr-defined]
    main()
