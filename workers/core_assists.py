"""Head starts given here: accepted, offered as they grow, sent to whoever pulls, dropped when nobody needs them."""

from __future__ import annotations

from shared.messages import AbandonTransfer, AssistOrder, Pull, PullRefused, ReleaseAssist, StopAssist, WorkerState
from shared.types import GRANULE_TOKENS, RequestSpec, whole_granules
from workers.core_reports import CoreReports
from workers.core_state import Assist, Send
from workers.events import Ordered, SendEnded, SendKv, TellWorker
from workers.kv_transfer import Offer
from workers.sequence import Sequence


class CoreAssists(CoreReports):
    # -- accepted

    def on_ordered(self, event: Ordered) -> None:
        job = event.job
        self.account(job.seq)
        if self._wanted(job):
            assist = self.assists[job.assist] = self._new_assist(job, event.spec)
            self.start_from_cache(assist.sequence)
            self.raise_offer(assist.sequence)

    def _wanted(self, job: AssistOrder) -> bool:
        """Not a repeat, not one whose release overtook it, not for a request that is already this worker's own; and there is a place."""
        known = job.assist in self.assists or self.is_gone(job.assist)
        welcome = self.state is WorkerState.READY and self.free_sequences > 0
        return welcome and not known and job.request_id not in self.owned

    def give_places(self) -> None:
        """Owned work comes first: head starts beyond the places there are go, those first that nobody takes, then the newest."""
        while len(self.assists) > self.places and (idle := [assist for assist in self.assists.values() if not assist.offer.sends]):
            self.drop_assist(max(idle, key=lambda assist: (assist.taken_by is None, assist.sequence.arrival)), "its place was needed")

    def _new_assist(self, job: AssistOrder, spec: RequestSpec) -> Assist:
        limit = min(whole_granules(job.limit), whole_granules(len(spec.prompt) - 1))
        sequence = Sequence(spec, (), self.next_arrival(), max_tokens=self.settings.max_model_tokens, limit=limit)
        return Assist(job.assist, sequence, Offer(job.assist, spec.request_id))

    # -- offered

    def raise_offer(self, sequence: Sequence) -> None:
        """Computed or cached whole granules may be pulled from now on."""
        assist = self._assist_of(sequence)
        offered = len(self.offered_blocks(assist)) if assist else 0
        if assist and assist.offer.grow(whole_granules(sequence.num_computed)):
            self.blocks.offer(self.offered_blocks(assist)[offered:])
            self.tell_soon()

    def _assist_of(self, sequence: Sequence) -> Assist | None:
        return next((assist for assist in self.assists.values() if assist.sequence is sequence), None)

    def advancing(self) -> list[Sequence]:
        """Head starts that steps may work on: the oldest few, so that what they offer stays fresh."""
        going = [assist.sequence for assist in self.assists.values() if not assist.stopped and assist.sequence.left]
        return going[: self.settings.max_assists]

    # -- stopped, released, dropped

    def on_stop_assist(self, event: StopAssist) -> None:
        self.hear_scheduler()
        if assist := self.assists.get(event.assist):
            assist.stopped = True
            assist.taken_by = event.taken_by or assist.taken_by
        else:
            self.mark_gone(event.assist)

    def on_release_assist(self, event: ReleaseAssist) -> None:
        self.mark_gone(event.assist)
        if assist := self.assists.pop(event.assist, None):
            self.blocks.withdraw(self.offered_blocks(assist))
            assist.offer.release()
            self.rewind(assist.sequence)

    def drop_assist(self, assist: Assist, why: str) -> None:
        """Gives up a head start that nobody is pulling: its owner will compute it."""
        self.mark_gone(assist.assist)
        del self.assists[assist.assist]
        self.blocks.withdraw(self.offered_blocks(assist))
        assist.offer.expire(why)
        self.rewind(assist.sequence)
        self.story(assist.sequence.spec.request_id, "assist_dropped", assist=assist.assist, why=why)
        self.tell_soon()

    def newest_droppable(self) -> Assist | None:
        """The head start to give up first: one that nobody takes, then the newest."""
        idle = [assist for assist in self.assists.values() if not assist.offer.sends and assist.sequence.blocks]
        return max(idle, key=lambda assist: (assist.taken_by is None, assist.sequence.arrival), default=None)

    def expire_assists(self) -> None:
        """Nobody took or released them, and the scheduler has been silent: a lost release leaks nothing for ever."""
        if self.now - self._scheduler_heard < self.settings.assist_ttl_s:
            return
        for assist in [assist for assist in self.assists.values() if not assist.offer.sends]:
            self.drop_assist(assist, "expired")

    def adopt(self, assist: Assist) -> Sequence:
        """The head start's own giver became the request's owner: the sequence goes on where it is, and no byte moves."""
        self.mark_gone(assist.assist)
        del self.assists[assist.assist]
        assist.offer.release()
        self.blocks.withdraw(self.offered_blocks(assist))
        return assist.sequence

    # -- sent

    def on_pull(self, event: Pull) -> None:
        key = (event.requester, event.transfer)
        if key in self.sends or self.is_gone(key):
            return
        assist = self.assists.get(event.assist)
        if assist is None or (reason := self._refusal(event, assist)):
            self.command(TellWorker(event.requester, self._refused(event, reason if assist else "no such assist")))
        else:
            self._send(event, assist)

    def _refused(self, event: Pull, reason: str) -> PullRefused:
        return PullRefused(event.transfer, self.settings.ref, reason)

    def _refusal(self, event: Pull, assist: Assist) -> str:
        if event.fingerprint != self.settings.fingerprint:
            return "another KV layout"
        if event.request_id != assist.sequence.spec.request_id:
            return "the assist is of another request"
        if event.span.stop > assist.offer.tokens:
            return f"only {assist.offer.tokens} tokens are offered"
        if not len(event.span) or event.span.start % GRANULE_TOKENS or event.span.stop % GRANULE_TOKENS:
            return "not whole granules"
        return ""

    def _send(self, event: Pull, assist: Assist) -> None:
        key = (event.requester, event.transfer)
        table = tuple(assist.sequence.blocks[: self.blocks.blocks_for(event.span.stop)])
        send = Send(assist.offer, self.span_blocks(table, event.span))
        self.sends[key] = send
        assist.offer.begin_send(key)
        self.blocks.begin_transfer(send.blocks)
        self.command(SendKv(event.transfer, event.request_id, event.attempt, event.requester, event.address, event.span, table))

    def on_send_ended(self, event: SendEnded) -> None:
        key = (event.requester, event.transfer)
        if send := self.sends.pop(key, None):
            self.mark_gone(key)
            self.blocks.end_transfer(send.blocks)
            send.offer.end_send(key, event.error)

    def on_abandon_transfer(self, event: AbandonTransfer) -> None:
        """The receiver gave up: a pull that comes behind this is not worth sending. What is being sent ends by itself."""
        key = (event.requester, event.transfer)
        if key not in self.sends:
            self.mark_gone(key)
