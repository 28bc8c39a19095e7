import re
from pathlib import Path

from bench.__main__ import SUITES

ROOT = Path(__file__).parents[2]


def test_the_readme_beside_the_benchmarks_tells_of_every_suite_in_order() -> None:
    told = (ROOT / "bench/README.md").read_text()

    assert re.findall(r"^- \*\*(\w+)\*\*:", told, re.MULTILINE) == list(SUITES)
    assert f"# one of {', '.join(SUITES)}\n" in told


def test_the_readme_names_every_suite() -> None:
    assert f"`make bench SUITE={'|'.join(SUITES)}`" in (ROOT / "README.md").read_text()
