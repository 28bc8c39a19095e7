import pytest

from pagewire_runtime.errors import Kind, Refusal, refusal_from
from pagewire_sync.patience import persistently


class Store:
    def __init__(self, *kinds: Kind) -> None:
        self.refusals = [refusal_from(kind, kind.name, "no") for kind in kinds]
        self.asked = 0

    async def ask(self) -> int:
        self.asked += 1
        if self.refusals:
            raise self.refusals.pop(0)
        return self.asked


@pytest.mark.parametrize("kind", [Kind.TRANSIENT, Kind.EXHAUSTED, Kind.INTERNAL, Kind.FENCED])
async def test_what_may_pass_is_waited_for(kind: Kind) -> None:
    assert await persistently(Store(kind, kind).ask) == 3


@pytest.mark.parametrize(
    "kind", [Kind.INVALID, Kind.MISSING, Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.UNIMPLEMENTED]
)
async def test_what_no_further_try_would_mend_is_raised(kind: Kind) -> None:
    store = Store(kind)

    with pytest.raises(Refusal) as refused:
        await persistently(store.ask)

    assert refused.value.kind is kind
    assert store.asked == 1
