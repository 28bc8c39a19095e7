from typing import Any

import pytest

from pagewire_simulator.entities import Host, Platform
from pagewire_simulator.faults import Faults, Script, UnknownFault
from pagewire_simulator.limits import Allowance, Bucket, Rates, SendLimits
from pagewire_simulator.plan import Plan
from pagewire_simulator.refusals import Refused
from pagewire_simulator.world import World

NOW = 1_767_312_000_000


def story(*, interrupted: bool) -> list[Any]:
    """What people do under seed 3, with or without the app's own doings in between."""
    world = World(3, "1")
    page = world.create_account()
    person = world.create_person(page)
    first = world.receive(page, person, NOW, text="hi")
    if interrupted:
        world.send(page, person, NOW + 1, app_id="1", text="hello")
        world.create_label(page, "lead")
        world.noise.trace()
    second = world.receive(page, person, NOW + 2, text="price?")
    post = world.create_post(page, NOW)
    return [first, second, world.create_comment(page, person, post, NOW, "me too")]


def test_what_the_app_does_never_changes_what_people_say() -> None:
    assert story(interrupted=True) == story(interrupted=False)


def test_ids_have_the_shapes_of_metas() -> None:
    world = World(1, "1")
    page = world.create_account()
    instagram = world.create_account(platform=Platform.INSTAGRAM, login=Host.INSTAGRAM)
    reader, follower = world.create_person(page), world.create_person(instagram)
    post = world.create_post(page, NOW)
    comment = world.create_comment(page, reader, post, NOW, "hi")

    message = world.receive(page, reader, NOW, text="hi")
    direct = world.receive(instagram, follower, NOW, text="hi")

    assert message.mid.startswith("m_")
    assert direct.mid.startswith("aWdf")
    assert len(direct.mid) > 150
    assert instagram.id.startswith("17841")
    assert len(reader.id) == 16
    assert reader.commenter_id != reader.id
    assert follower.commenter_id == follower.id
    assert post.id.startswith(f"{page.id}_")
    assert comment.id.split("_")[0] == post.id.split("_")[1]
    assert world.conversation(page, reader).thread_id.startswith("t_")


def test_an_account_and_its_page_share_a_token_and_a_new_one_ends_the_old() -> None:
    world = World(1, "1")
    page = world.create_account()
    linked = world.create_account(platform=Platform.INSTAGRAM, page_id=page.id)
    old = world.token_of(page)

    world.give_token(linked, "fresh")

    assert old
    assert world.tokens.keys() == {"fresh"}
    assert world.token_of(page) == world.token_of(linked) != old


def test_faults_by_chance_follow_the_seed() -> None:
    def struck(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Script(fault="lost", probability=0.4), NOW)
        return [faults.strike("1", "send", None, NOW) is not None for _ in range(50)]

    assert struck(1) == struck(1) != struck(2)
    assert 5 < struck(1).count(True) < 35


def test_a_script_ends_by_time_and_names_its_calls() -> None:
    faults = Faults(1)
    faults.add(Script(fault="lost", lasts=60, endpoint="send", person="7"), NOW)

    assert faults.strike("1", "send", "7", NOW + 59_999)
    assert faults.strike("1", "send", "8", NOW) is None
    assert faults.strike("1", "comment_reply", "7", NOW) is None
    assert faults.strike("1", "send", "7", NOW + 60_000) is None


def test_a_fault_of_no_name_is_refused() -> None:
    with pytest.raises(UnknownFault, match="lost"):
        Faults(1).add(Script(fault="nonsense"), NOW)


def test_a_call_while_blocked_prolongs_the_block() -> None:
    allowance = Allowance(calls=2, window_ms=1000, block_ms=5000, since=NOW)

    taken = [allowance.count(NOW) for _ in range(3)]
    prolonged = allowance.count(NOW + 4000)
    still = allowance.count(NOW + 6000)

    assert taken == [True, True, False]
    assert not prolonged
    assert not still
    assert allowance.minutes_to_regain(NOW + 6000) == 1
    assert allowance.count(NOW + 11_000)


def test_a_bucket_fills_at_its_rate_and_never_over() -> None:
    bucket = Bucket(rate=2, size=2, level=2, at=NOW)

    assert [bucket.take(NOW) for _ in range(3)] == [True, True, False]
    assert bucket.take(NOW + 500)
    assert not bucket.take(NOW + 500)
    assert [bucket.take(NOW + 60_000) for _ in range(3)] == [True, True, False]


def test_retries_come_at_once_first_and_ever_later_after() -> None:
    plan = Plan()

    pauses = [plan.retry_after(attempt) for attempt in range(1, 30)]

    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == plan.retries[-1]


@pytest.mark.parametrize(
    ("rates", "heavy", "allowed"),
    [
        (Rates(), False, 300),
        (Rates(), True, 10),
        (Rates(per_thread=5), False, 5),
        (Rates(per_thread=5), True, 5),
    ],
)
@pytest.mark.parametrize("platform", list(Platform))
def test_so_many_sends_are_allowed_in_a_second_and_no_more(
    rates: Rates, heavy: bool, allowed: int, platform: Platform
) -> None:
    world = World(1, "1")
    account = world.create_account(platform=platform)
    person = world.create_person(account)
    limits = SendLimits(rates)

    def taken(now: int) -> int:
        """How many of a thousand more at that moment."""
        for count in range(1_000):
            try:
                limits.take(account, person, heavy=heavy, private=False, now=now)
            except Refused:
                return count
        return 1_000

    assert taken(NOW) == allowed
    assert taken(NOW) == 0
    assert taken(NOW + 1_000) == allowed
