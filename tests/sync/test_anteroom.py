import asyncio

from pagewire_sync.anteroom import Anteroom


async def test_who_would_enter_waits_until_half_of_it_is_free() -> None:
    anteroom = Anteroom(4)
    anteroom.enter("abcd")
    waiting = asyncio.create_task(anteroom.room())

    anteroom.leave("a")
    await asyncio.sleep(0)
    still_waits = not waiting.done()
    anteroom.leave("b")

    assert still_waits
    assert await waiting == 2


async def test_who_leaves_twice_leaves_once() -> None:
    anteroom = Anteroom(4)
    anteroom.enter("abcd")

    for name in "aabb":
        anteroom.leave(name)

    assert await anteroom.room() == 2
