"""Laws of scores and placements, for any workers: hypothesis looks for those that break them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.backlog import Backlog
from scheduler.core import Leadership
from scheduler.cost_model import assist_limit, can_hold, fits, pull_seconds
from scheduler.events import Place
from scheduler.scores import Role, score, useful_cut
from scheduler.view import Amount, ClusterView, Roles, WaitingView, WorkerView
from shared.messages import Assign, AssistOrder
from shared.profile import PeerLink, Profile
from shared.types import GRANULE_TOKENS, AssistId, RequestId
from tests.unit.scheduler.support import Driver, Held, Waits, jobs, of, owned, ref

SECONDS = st.floats(1e-7, 1e-2)
PROFILES = st.builds(
    Profile, st.floats(1e-4, 0.1), SECONDS, st.floats(0, 1e-7), SECONDS, st.floats(0, 1e-6), st.just(131_072), st.floats(0, 0.1),
    st.floats(1e8, 1e11),
)  # fmt: skip
ROOMS = st.builds(Amount, st.integers(0, 512), st.integers(0, 400), st.integers(0, 16))
COUNTS = st.integers(0, 3000)


@st.composite
def workers(draw: Any, name: str = "one") -> WorkerView:
    profile = draw(PROFILES)
    decodes = draw(st.integers(0, 500))
    numbers = (draw(COUNTS), draw(st.integers(0, 20)), (), profile.prefill_tokens_per_s(), decodes, decodes * draw(COUNTS), 0, "")
    layout = draw(st.sampled_from([b"layout", b"other"]))
    return WorkerView(ref(name), profile, layout, 16, 400, 8192, 512, True, draw(ROOMS), *numbers, draw(COUNTS), draw(st.floats(0, 9)))


@st.composite
def requests(draw: Any) -> Waits:
    n, offered = draw(st.integers(1, 5000)), draw(st.integers(0, 80)) * GRANULE_TOKENS
    held = Held(AssistId("x"), ref("giver"), offered, 6400) if draw(st.booleans()) else None
    return Waits(RequestId("a"), n, draw(st.integers(1, 900)), held, num_prompt=n)


def cluster(*views: WorkerView) -> ClusterView:
    return ClusterView({view.ref: view for view in views}, Backlog(64), Roles(frozenset(view.ref for view in views)))


@given(workers(), workers("giver"), requests())
def test_a_cut_is_whole_granules_and_never_the_last_token(worker: WorkerView, giver: WorkerView, waiting: Waits) -> None:
    for cut in (useful_cut(cluster(worker, giver), worker, waiting), assist_limit(worker, waiting.num_tokens)):
        assert cut % GRANULE_TOKENS == 0
        assert 0 <= cut <= waiting.num_tokens - 1


@given(workers(), workers("giver"), workers("other"), st.integers(1, 80))
def test_a_pull_takes_what_the_owner_measured_of_that_host_and_elsewhere_the_slower_link(
    worker: WorkerView, giver: WorkerView, other: WorkerView, granules: int
) -> None:
    cut, link = granules * GRANULE_TOKENS, PeerLink("there", 0.5, 1e9)
    owner = worker._replace(links={"there": link})
    assert pull_seconds(owner, giver._replace(host="there"), cut) == link.seconds(cut * worker.profile.kv_bytes_per_token)
    slower = max(worker.profile.transfer_seconds(cut), other.profile.transfer_seconds(cut))
    assert pull_seconds(owner, other._replace(host="elsewhere"), cut) == slower
    assert pull_seconds(owner, owner._replace(host="there"), cut) == 0


@given(workers(), requests(), st.floats(0.01, 1.0), st.sampled_from(list(Role)))
def test_a_faster_worker_never_makes_the_predicted_ttft_worse(worker: WorkerView, waiting: Waits, factor: float, role: Role) -> None:
    profile = worker.profile.scaled(factor)
    faster = worker._replace(profile=profile, speed=profile.prefill_tokens_per_s())
    cut = assist_limit(worker, waiting.num_tokens) if role is Role.HEAD_START else 0
    before, after = (score(one, waiting, role, cut=cut) for one in (worker, faster))
    assert after.ttft_s <= before.ttft_s * (1 + 1e-9)
    assert after.itl_s <= before.itl_s * (1 + 1e-9)
    assert after.cost <= before.cost * (1 + 1e-9)


@given(workers(), requests(), st.lists(st.integers(0, 10**6), min_size=2, max_size=6))
def test_with_equal_workers_the_least_work_wins(worker: WorkerView, waiting: Waits, queues: list[int]) -> None:
    alike = [worker._replace(ref=ref(str(at)), queued_tokens=queue) for at, queue in enumerate(queues)]
    best = min(alike, key=lambda one: score(one, waiting).cost)
    assert best.queued_tokens == min(queues)


@given(workers(), requests())
def test_with_equal_work_the_emptier_memory_wins(worker: WorkerView, waiting: Waits) -> None:
    fuller = worker._replace(free=worker.free._replace(blocks=worker.free.blocks // 2))
    assert score(worker, waiting).cost <= score(fuller, waiting).cost


# -- whole schedulers: three workers of unlike speed, any reports, any requests

NAMES = ("fast", "near", "slow")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 3000), st.integers(1, 400), st.integers(-1, 1)),
        st.tuples(st.sampled_from(NAMES), st.integers(0, 512), st.integers(0, 300), st.integers(0, 8)),
    ),
    max_size=30,
)


def played(profiles: list[Profile], steps: list[tuple[Any, ...]], **settings: object) -> Driver:
    """Every placement is answered, every order too; reports list nothing, so that only promises fill the workers."""
    d = Driver(**settings)  # type: ignore[arg-type]
    for name, profile in zip(NAMES, profiles, strict=True):
        d.join(name, profile)
    for at, (what, *numbers) in enumerate(steps):
        if what == "submit":
            commands = d.known(f"r{at}", n=numbers[0], max_tokens=numbers[1], priority=numbers[2])
        else:
            commands = d.report(what, tokens=numbers[0], blocks=numbers[1], sequences=numbers[2])
        leadership = d.core._leadership
        assert leadership is not None
        promises_are_kept(leadership)
        work_is_conserved(leadership, d.now)
        assert all(order.limit % GRANULE_TOKENS == 0 for order in jobs(commands, AssistOrder))
    return d


def promises_are_kept(leadership: Leadership) -> None:
    for worker in leadership.state.fleet:
        assert worker.promised.blocks <= worker.credit.blocks or not worker.promises
        assert worker.promised.sequences <= worker.credit.sequences or not worker.promises


def grows(waiting: WaitingView) -> bool:
    return waiting.head_start is not None and waiting.head_start.offered < waiting.head_start.limit


def work_is_conserved(leadership: Leadership, now: float) -> None:
    """No free owner has room for the first request that it could hold; no low-end has room for a head start that is worth its transfer.

    But an owner that decodes may leave a prompt to the low-end that computes it.
    """
    view = leadership.placement.view(now)
    policy: Any = leadership.placement._policy
    for key in leadership.state.fleet.free_owners:
        worker = view.workers[key[-1]]
        line = [one for one in view.waiting.first(64) if not (worker.decodes and grows(one))]
        first = next((one for one in line if can_hold(worker, one.num_tokens)), None)
        assert first is None or not fits(worker, first), f"{worker.ref} is free, and {first} waits"
    for idle in leadership.state.fleet.idle_assistants:
        assert policy.assist(view, view.workers[idle[-1]]) is None, f"{idle[-1]} idles"


@given(st.lists(PROFILES, min_size=3, max_size=3), STEPS)
def test_no_placement_promises_what_is_not_there_and_no_device_idles_while_work_waits(
    profiles: list[Profile], steps: list[tuple[Any, ...]]
) -> None:
    played(profiles, steps)


@given(st.lists(st.integers(2, 5000), min_size=2, max_size=5, unique=True), st.integers(1, 3000))
def test_equal_owners_are_given_work_where_least_is_queued(queues: list[int], n: int) -> None:
    d = Driver()
    for at, queue in enumerate(queues):
        d.join(f"w{at}")
        d.report(f"w{at}", owned(f"q{at}", num_tokens=queue), tokens=512)
    (place,) = [place for place in of(d.known("a", n=n), Place) if isinstance(place.job, Assign)]
    assert place.worker == ref(f"w{queues.index(min(queues))}")
