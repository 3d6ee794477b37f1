"""Links by the giver's host: probed, corrected by real pulls, forgotten in time, bounded."""

from __future__ import annotations

import pytest

from shared.messages import PullRefused, Source
from shared.profile import PeerLink, Profile
from shared.types import AssistId
from tests.support.core_bench import PEER, Bench, of
from tests.support.core_harness import make_spec
from workers.core_reports import PROFILE_EVERY
from workers.events import AbandonPull, LinkProbed, PullEnded, StartPull, Tick
from workers.peer_links import LEAST_PULLS, MOST_HOSTS, OLDEST_S, PeerLinks

PROFILE = Profile(0.01, 0.0, 0.0, 0.0, 0.0, kv_bytes_per_token=1000, link_s=0.001, link_bytes_per_s=1e9)
MIB = 1 << 20


def figures(links: PeerLinks) -> dict[str, PeerLink]:
    return {link.host: link for link in links.told()}


def test_a_host_is_believed_to_be_what_its_pulls_say_and_others_are_not() -> None:
    links = PeerLinks(PROFILE)
    for at in range(LEAST_PULLS):
        assert links.told() == ()
        assert links.saw("slow", MIB, 0.12, at) is (at == LEAST_PULLS - 1)
        links.saw("fine", MIB, 0.001 + MIB / 1e9, at)
    assert figures(links)["slow"].seconds(MIB) == pytest.approx(0.12)
    assert figures(links)["fine"].seconds(MIB) == pytest.approx(0.001 + MIB / 1e9)
    assert links.seconds("slow", MIB) == pytest.approx(0.12)
    assert links.seconds("unheard", MIB) == pytest.approx(0.001 + MIB / 1e9)


def test_one_slow_pull_moves_nothing() -> None:
    links = PeerLinks(PROFILE)
    for at in range(8):
        links.saw("a", MIB, 0.002 if at != 5 else 3.0, at)
    assert figures(links)["a"].seconds(MIB) == pytest.approx(0.002, rel=0.1)


def test_what_nobody_uses_is_believed_as_before_and_a_probe_stays() -> None:
    links = PeerLinks(PROFILE)
    assert links.probed("a", 0.01, 1e8, 0.0)
    for host in ("a", "b"):
        for at in range(LEAST_PULLS):
            links.saw(host, MIB, 1.0, at)
    assert not links.forget(OLDEST_S)
    assert {host: round(link.seconds(MIB), 3) for host, link in figures(links).items()} == {"a": 1.0, "b": 1.0}
    assert links.forget(2 * OLDEST_S)
    assert links.told() == (PeerLink("a", 0.01, 1e8),)
    assert not links.forget(3 * OLDEST_S)


def test_the_hosts_of_one_worker_are_bounded() -> None:
    links = PeerLinks(PROFILE)
    for number in range(3 * MOST_HOSTS):
        links.probed(f"host-{number}", 0.001, 1e9, number)
        links.saw("always", MIB, 0.01, number)
    assert len(links.told()) == MOST_HOSTS
    assert "always" in figures(links)


# --- in the core -------------------------------------------------------------------------------------------------------


def make_bench() -> Bench:
    return Bench(profile=PROFILE, total_blocks=400, max_sequences=16, token_budget=4096, prefix_cache=False)


def told(bench: Bench) -> tuple[PeerLink, ...]:
    """The latest word on links."""
    return next((report.links for report in reversed(bench.reports) if report.links is not None), ())


def start(bench: Bench, name: str) -> StartPull:
    (started,) = of(StartPull, bench.assign(make_spec(name, 100), source=Source(AssistId(name), PEER, 64, "there")))
    return started


def end(bench: Bench, pull: StartPull, *, good: int = 64) -> None:
    bench.do(PullEnded(pull.transfer, good, good * 1000, 0.0, "" if good else "deadline"))


def test_a_core_tells_the_scheduler_what_its_pulls_took_and_waits_longer_for_a_slow_host() -> None:
    bench = make_bench()
    for number in range(LEAST_PULLS):
        assert told(bench) == ()
        pull = start(bench, f"r{number}")
        bench.now += 1.3
        end(bench, pull)
    (link,) = told(bench)
    assert link.host == "there"
    assert link.seconds(64_000) == pytest.approx(1.3)
    assert start(bench, "next").deadline_s == pytest.approx(4 * 1.3)


def test_pulls_that_share_a_link_count_for_their_part() -> None:
    bench = make_bench()
    pulls = [start(bench, name) for name in ("one", "two", "three", "four")]
    bench.now += 1.0
    for pull in pulls:
        end(bench, pull)
    (link,) = told(bench)
    assert link.seconds(64_000) == pytest.approx(2 * 1.0 / 5, rel=0.01)


def test_a_pull_that_missed_its_deadline_took_at_least_so_long_and_one_given_up_says_nothing() -> None:
    bench = make_bench()
    for number in range(LEAST_PULLS):
        lost = start(bench, f"lost{number}")
        (given_up,) = of(AbandonPull, bench.do(PullRefused(lost.transfer, PEER, "gone")))
        bench.do(PullEnded(given_up.transfer, 0, 0, 0.0, "abandoned"))
    assert told(bench) == ()
    for number in range(LEAST_PULLS):
        pull = start(bench, f"late{number}")
        bench.now += pull.deadline_s
        end(bench, pull, good=0)
    assert told(bench)[0].seconds(64_000) == pytest.approx(2.0)


def test_a_probe_is_told_at_once_and_again_from_time_to_time() -> None:
    bench = make_bench()
    bench.do(LinkProbed("there", 0.02, 5e8))
    assert bench.reports[-1].links == (PeerLink("there", 0.02, 5e8),)
    bench.reports.clear()
    for _ in range(PROFILE_EVERY):
        bench.do(Tick(), bench.now + bench.core.settings.report_s)
    assert [report.links for report in bench.reports if report.links] == [(PeerLink("there", 0.02, 5e8),)]
