"""History: who reads it dies, or whom it is stored with, and it is whole all the same."""

from __future__ import annotations

import random
import signal

from faults.past import begin, is_whole, run_of, with_a_past
from faults.rig import Rig
from faults.rows import Struck, row
from faults.rows.postgres import TO_THE_STORE, serves_again
from faults.rows.sends import WITHIN, until
from faults.servers import Stop

MOMENTS = ("sync.page.after_read", "sync.page.after_upsert", "sync.page.before_save")


@row("F14", weight="process")
async def sync_dies_in_a_page(rig: Rig, draw: random.Random) -> Struck:
    """Sync dies in a page of history: when it is read, when it is stored, before that is noted.

    Each in another page's run, which the next life takes over when its lease is over.
    """
    runs, seconds = {}, []
    for moment in draw.sample(MOMENTS, len(MOMENTS)):
        page = (await with_a_past(rig)).id
        try:
            async with rig.death("sync", WITHIN) as death:
                rig.fault("sync", f"{moment}=kill nth:2 if:{page}")
                runs[page] = await begin(rig, page)
        except TimeoutError:
            raise TimeoutError(f"sync did not die at {moment}, or is not back") from None
        finally:
            rig.fault("sync")
        assert death.exit_code == -signal.SIGKILL, f"sync ended with {death.exit_code}"
        seconds.append(death.seconds)
    for page, run_id in runs.items():
        await is_whole(rig, page, run_id)
    return Struck(len(seconds), {"sync": tuple(seconds)})


@row("F25", weight="postgres", proxies=TO_THE_STORE)
async def fails_over(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL is lost while history is read, and its synchronous replica takes its place."""
    page = (await with_a_past(rig)).id
    replica = await rig.replicate()
    run_id = await begin(rig, page)

    async def is_under_way() -> bool:
        return bool((await run_of(rig, run_id)).get("messages"))

    await until(is_under_way, "the run is under way")
    await rig.fail_over(replica, draw.choice([Stop.IMMEDIATE, Stop.KILL]))
    struck = await serves_again(rig)
    await is_whole(rig, page, run_id)
    return struck
