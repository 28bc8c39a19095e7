from pathlib import Path

import pytest

from bench.driving import Closed, Target
from bench.figures import MeasuringFailed
from bench.generator import Generator
from bench.processes import child
from bench.traffic import Traffic

JOB = Closed(
    target=Target(port=1, path="/", secret="secret", connections=1),
    traffic=Traffic(name="d", pages=("1",), people=1, messages=1, sent_ms=0),
)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (
            "import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)",
            "the load generator ended by SIGKILL:\n(it said nothing)",
        ),
        ("input(); exit('why')", "the load generator ended with 1:\nwhy\n"),
    ],
    ids=["killed", "failed"],
)
async def test_a_generator_that_ends_is_told_of_with_how_it_did_and_what_it_said(
    tmp_path: Path, program: str, told: str
) -> None:
    log = tmp_path / "generator.log"
    with child(["-c", program], log) as process, pytest.raises(MeasuringFailed) as failed:
        await Generator(process, log).run(JOB)

    assert str(failed.value) == told
