"""Progress: how far a run is, as it is written down; figures are totals, so a repeat is safe."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import run_service_pb2 as pb
from pagewire.type.v1.sync_run_pb2 import SyncMode, SyncRun, SyncState
from pagewire_sync.page_sizes import PageSizes
from pagewire_sync.reading import Tally

CLOCKS_DIFFER = timedelta(minutes=1)
"""Meta's clock and the database's are taken to be less than that apart."""
OVERLAP = timedelta(minutes=5)
"""Incremental runs read so much again of what is mirrored: Graph shows some things late."""
CHECKPOINT_BYTES = 2**20
"""The store keeps no larger one."""
MARKS_MOST = 1_000
"""Marks that the store takes at once."""
LABELS = "custom_labels"
"""What the page's labels are marked as, where they could not be read; no thread has such an id."""


@dataclass(slots=True)
class Progress:
    """A run as it stands."""

    claimed: pb.ClaimedRun
    run: SyncRun
    sizes: PageSizes
    checkpoint: bytes
    unreadable: dict[str, pb.UnreadableThread]
    """The page's threads, or posts, that cannot be read, as far as that is known."""
    tally: Tally = field(default_factory=Tally)
    version: int = 0
    """Goes up with every change."""
    lacks_labels: bool = False
    """The page's labels could not be read, by a run before or by this one."""
    tried_labels: bool = False
    """This run has read them, or could not."""
    lacks_events: bool = False
    """The store would not have some event of this repair."""
    without_list: bool = False
    """Graph gave no list: threads that are known here were read, and no others."""
    _marks: dict[str, pb.UnreadableThread] = field(default_factory=dict)
    """What is not written down yet."""
    _calls_before: int = 0

    @classmethod
    def of(cls, claimed: pb.ClaimedRun) -> "Progress":
        """The progress of a run that was claimed just now."""
        run = SyncRun()
        run.CopyFrom(claimed.run)
        marks = {each.thread_id: each for each in claimed.unreadable}
        labels = marks.pop(LABELS, None)
        return cls(
            claimed,
            run,
            PageSizes(claimed.page_sizes),
            claimed.checkpoint,
            marks,
            lacks_labels=labels is not None,
            _calls_before=claimed.run.graph_calls,
        )

    @property
    def page_id(self) -> str:
        """Whose history it is."""
        return self.run.page_id

    @property
    def is_full(self) -> bool:
        """Whether everything is read."""
        return self.run.mode == SyncMode.SYNC_MODE_FULL

    @property
    def began(self) -> float:
        """When the run began, as seconds of Unix time by the database's clock."""
        return self.run.start_time.ToDatetime(UTC).timestamp()

    @property
    def bound(self) -> float:
        """What is older has been mirrored, and was not written to since; 0 where nothing has."""
        if self.is_full:
            return 0.0
        bounds = []
        if self.claimed.HasField("synced_time"):
            synced = self.claimed.synced_time.ToDatetime(UTC) - OVERLAP
            bounds.append(synced.timestamp())
        if self.claimed.HasField("gap_start_time"):
            bounds.append(self.claimed.gap_start_time.ToDatetime(UTC).timestamp())
        return min(bounds, default=0.0)

    @property
    def has_ended(self) -> bool:
        """Whether its end is known."""
        return self.run.state not in (
            SyncState.SYNC_STATE_UNSPECIFIED,
            SyncState.SYNC_STATE_QUEUED,
            SyncState.SYNC_STATE_RUNNING,
        )

    def add(
        self, *, conversations: int = 0, messages: int = 0, comments: int = 0, stored: int = 0
    ) -> None:
        """Count what was gone through and stored."""
        self.run.conversations += conversations
        self.run.messages += messages
        self.run.comments += comments
        self.run.stored += stored
        self.version += 1

    def reached(self, checkpoint: bytes) -> None:
        """All that is behind this checkpoint is stored. One that is too large to be kept leaves the
        one before: who takes the run over does some of it again.
        """
        if len(checkpoint) <= CHECKPOINT_BYTES:
            self.checkpoint = checkpoint
        self.version += 1

    def is_known_unreadable(self, thread_id: str, updated: float) -> bool:
        """Whether it could not be read before, and has not changed since."""
        known = self.unreadable.get(thread_id)
        return known is not None and known.update_time.seconds == int(updated)

    def is_hopeless(self, thread_id: str, updated: float) -> bool:
        """Whether not to try it: it could not be read before, and has not changed since as far as
        Graph tells; a full run tries all the same, as does a repair, whose gap stays open for it.
        """
        tries_all = self.is_full or self.claimed.HasField("gap_start_time")
        return not tries_all and self.is_known_unreadable(thread_id, updated)

    def pass_by(self, thread_id: str, reason: str, updated: float) -> None:
        """It cannot be read, now or as before, and is passed."""
        if not self.is_known_unreadable(thread_id, updated):
            mark = pb.UnreadableThread(thread_id=thread_id, reason=reason)
            if updated:
                mark.update_time.seconds = int(updated)
            self.unreadable[thread_id] = self._marks[thread_id] = mark
        self.run.unreadable += 1
        self.version += 1

    def event_refused(self) -> None:
        """The store will not have an event that a repair found: its gap is not repaired."""
        self.lacks_events = True
        self.run.unreadable += 1
        self.version += 1

    def readable(self, thread_id: str) -> None:
        """It was read; where it could not be before, its mark goes."""
        if self.unreadable.pop(thread_id, None) is not None:
            self._marks[thread_id] = pb.UnreadableThread(thread_id=thread_id, readable_again=True)
            self.version += 1

    def labels_read(self, reason: str = "") -> None:
        """The page's labels are stored; or could not be read, which the next run does."""
        if reason or self.lacks_labels:
            mark = pb.UnreadableThread(thread_id=LABELS, reason=reason, readable_again=not reason)
            self._marks[LABELS] = mark
        self.lacks_labels, self.tried_labels = bool(reason), True
        self.version += 1

    def end(self, state: SyncState.ValueType, error: str = "") -> None:
        """It has ended."""
        self.run.state = state
        self.run.error = error
        self.version += 1

    def report(self, *, budget_left: int = 100, release: bool = False) -> pb.RunProgress:
        """What is to be written down now. Its end is not before the last of its marks: nothing of
        a run is written down behind that.
        """
        self.run.graph_calls = self._calls_before + self.tally.calls
        self.run.budget_left_percent = budget_left
        ends = self.has_ended and len(self._marks) <= MARKS_MOST
        report = pb.RunProgress(
            run=self.run,
            epoch=self.claimed.epoch,
            checkpoint=b"" if ends else self.checkpoint,
            page_sizes=self.sizes.learnt(),
            unreadable=list(self._marks.values())[:MARKS_MOST],
            release=release and not ends,
        )
        if self.has_ended and not ends:
            report.run.state, report.run.error = SyncState.SYNC_STATE_RUNNING, ""
        if ends and self._is_mirrored():
            report.synced_time.CopyFrom(self._synced_time())
        return report

    def written_down(self, report: pb.RunProgress) -> None:
        """The store has this report."""
        for mark in report.unreadable:
            if self._marks.get(mark.thread_id) == mark:
                del self._marks[mark.thread_id]

    @property
    def has_marks(self) -> bool:
        """Whether marks are left to be written down."""
        return bool(self._marks)

    def _is_mirrored(self) -> bool:
        """Whether the watermark moves: not where nobody may have met some threads. A repair reaches
        back to its gap: on a page that was never mirrored that is not the beginning.
        """
        complete = (SyncState.SYNC_STATE_SUCCEEDED, SyncState.SYNC_STATE_PARTIAL)
        whole = not self.claimed.HasField("gap_start_time") or self.claimed.HasField("synced_time")
        return self.run.state in complete and whole and not self.without_list

    def _synced_time(self) -> Timestamp:
        time = Timestamp()
        began: datetime = self.run.start_time.ToDatetime(UTC)
        time.FromDatetime(began - CLOCKS_DIFFER)
        return time
