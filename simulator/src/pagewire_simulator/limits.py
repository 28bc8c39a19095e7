"""How much an account may do: send limits by the second, call allowances by the window.

Pure: time comes in as Unix milliseconds. Figures: the Messenger Platform's rate limit page; the
per-thread limit is not published, so it is a parameter that is off by default.
"""

from contextlib import suppress

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.entities import Account, Person, Platform
from pagewire_simulator.refusals import Refused

DAY = 86_400_000
PRUNE_AT = 10_000
CALL_CPU_MS = 10
"""A stand-in, as what Graph works for a call is not published; and 1 ms an item shown."""


class Rates(msgspec.Struct, kw_only=True):
    """Allowed per second, per account (0: no limit)."""

    text: float = 300
    media: float = 10
    per_thread: float = 0
    conversation_reads: float = 2
    conversation_burst: float = 2
    private_replies_per_hour: float = 750


class Bucket(msgspec.Struct):
    """A token bucket: ``rate`` tokens a second, at most ``size`` saved up."""

    rate: float
    size: float
    level: float
    at: int

    def take(self, now: int) -> bool:
        self.level = min(self.size, self.level + self.rate * (now - self.at) / 1000)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Buckets:
    """One bucket a key, made full when first used."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, ...], Bucket] = {}

    def take(self, key: tuple[str, ...], rate: float, size: float, now: int) -> bool:
        if not rate:
            return True
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= PRUNE_AT:
                self._buckets = {k: b for k, b in self._buckets.items() if now - b.at < DAY}
            bucket = self._buckets[key] = Bucket(rate, size, size, now)
        return bucket.take(now)


class SendLimits:
    """The limits of the Send API (S21) and of reading conversations."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._buckets = Buckets()

    def take(
        self, account: Account, person: Person, *, heavy: bool, private: bool, now: int
    ) -> None:
        """Counts one send (``heavy``: audio or video); raises Refused (613) over the limit."""
        rates = self.rates
        kind, rate = ("media", rates.media) if heavy else ("text", rates.text)
        hourly = rates.private_replies_per_hour
        allowed = self._buckets.take((account.id, kind), rate, rate, now) and self._buckets.take(
            (account.id, "thread", person.id), rates.per_thread, max(1, rates.per_thread), now
        )
        if private:
            key = account.id, "private_reply"
            allowed = allowed and self._buckets.take(key, hourly / 3600, hourly, now)
        if not allowed:
            on_messenger = account.platform is Platform.MESSENGER
            raise Refused(
                refusals.CALLS_THROTTLED if on_messenger else refusals.INSTAGRAM_SENDS_THROTTLED
            )

    def read_conversations(self, account: Account, now: int) -> None:
        """Counts one read of conversations or messages; raises Refused (613) over the limit."""
        rate, burst = self.rates.conversation_reads, self.rates.conversation_burst
        if not self._buckets.take((account.id, "conversations"), rate, max(1, burst), now):
            raise Refused(refusals.CALLS_THROTTLED)


class Allowance(msgspec.Struct, kw_only=True):
    """Calls allowed in a window, and the time they may take; then the account is blocked.

    While blocked, every further call prolongs the block. ``time_ms`` is the time until answers,
    ``cpu_ms`` what Graph worked for them. Of what is None there is no limit, and no header where
    all are.
    """

    calls: int | None = None
    time_ms: int | None = None
    cpu_ms: int | None = None
    window_ms: int = DAY
    block_ms: int = 300_000
    used: int = 0
    time_used: int = 0
    cpu_used: int = 0
    since: int = 0
    blocked_until: int = 0

    def count(self, now: int) -> bool:
        """Counts a call; False when it is one too many."""
        if now - self.since >= self.window_ms and now >= self.blocked_until:
            self.used = self.time_used = self.cpu_used = 0
            self.since = now
        self.used += 1
        over_time = self.time_percent >= 100 or self.cpu_percent >= 100
        if not over_time and (self.calls is None or self.used <= self.calls):
            return True
        self.blocked_until = now + self.block_ms
        return False

    def charge(self, time_ms: int, cpu_ms: int) -> None:
        """Adds what a call took."""
        self.time_used += time_ms
        self.cpu_used += cpu_ms

    @property
    def percent(self) -> int:
        return share(self.used, self.calls)

    @property
    def time_percent(self) -> int:
        return share(self.time_used, self.time_ms)

    @property
    def cpu_percent(self) -> int:
        return share(self.cpu_used, self.cpu_ms)

    @property
    def told(self) -> dict[str, int]:
        """The whole percents of a header."""
        return {
            "call_count": self.percent,
            "total_cputime": self.cpu_percent,
            "total_time": self.time_percent,
        }

    def minutes_to_regain(self, now: int) -> int:
        return max(0, -(-(self.blocked_until - now) // 60_000))


def share(used: int, allowed: int | None) -> int:
    return 0 if not allowed else min(100, used * 100 // allowed)


class Usage:
    """The allowances of the app and of each account, and the headers that tell of them (S15)."""

    def __init__(self) -> None:
        self.app = Allowance()
        self.accounts: dict[str, Allowance] = {}

    def allow(self, account_id: str | None, allowance: Allowance) -> None:
        if account_id is None:
            self.app = allowance
        else:
            self.accounts[account_id] = allowance

    def count(self, account: Account, now: int) -> None:
        """Counts a call, refused ones too; raises Refused when app or account is over."""
        own = self.accounts.get(account.id)
        allowed = own is None or own.count(now)
        if not self.app.count(now):
            raise Refused(refusals.APP_THROTTLED)
        if not allowed:
            on_messenger = account.platform is Platform.MESSENGER
            raise Refused(
                refusals.MESSENGER_THROTTLED if on_messenger else refusals.INSTAGRAM_THROTTLED
            )

    def note(self, account: Account, now: int) -> None:
        """Counts a call that is refused for another reason."""
        with suppress(Refused):
            self.count(account, now)

    def charge(self, account: Account, seconds: float, items: int) -> None:
        """Adds what a call took until its answer, with so many messages or comments shown."""
        cpu = CALL_CPU_MS + items
        for allowance in (self.app, self.accounts.get(account.id)):
            if allowance is not None:
                allowance.charge(int(seconds * 1000) + cpu, cpu)

    def headers(self, account: Account, now: int) -> list[tuple[bytes, bytes]]:
        """Whole percents; none while usage is about zero."""
        found: list[tuple[bytes, bytes]] = []
        if any(self.app.told.values()):
            found.append((b"x-app-usage", msgspec.json.encode(self.app.told)))
        own = self.accounts.get(account.id)
        if own and any(own.told.values()):
            found.append((b"x-business-use-case-usage", business_usage(account, own, now)))
        return found


def business_usage(account: Account, own: Allowance, now: int) -> bytes:
    kind = "messenger" if account.platform is Platform.MESSENGER else "instagram"
    use = {
        "type": kind,
        **own.told,
        "estimated_time_to_regain_access": own.minutes_to_regain(now),
    }
    return msgspec.json.encode({account.node: [use]})
