from collections.abc import Iterator
from pathlib import Path

import pytest

from pagewire.type.v1.reply_pb2 import ReplyState
from tests.support.operated import SERVICE_TOKENS, Pagewire, operated


@pytest.fixture(scope="module")
def served() -> Iterator[Pagewire]:
    with operated() as held:
        yield held


@pytest.fixture
def held(served: Pagewire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pagewire:
    """A Pagewire that is empty again, and named by the environment."""
    fresh = Pagewire(target=served.target, reply_states=[ReplyState.REPLY_STATE_READY])
    vars(served).update(vars(fresh))
    for name in ("STORE_TARGET", "RULES_TARGET", "SYNC_TARGET"):
        monkeypatch.setenv(name, served.target)
    monkeypatch.setenv("SERVICE_TOKENS", SERVICE_TOKENS)
    monkeypatch.chdir(tmp_path)
    return served
