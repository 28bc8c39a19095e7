"""The check against the released contracts refuses what would break their users."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
RULES = Path("protos/pagewire/rules/v1/rule_service.proto")
DELETE_RULE = "  rpc DeleteRule(DeleteRuleRequest) returns (DeleteRuleResponse) {}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the protos, with what buf is told of them."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos" / "pagewire", tmp_path / "protos" / "pagewire")
    return tmp_path


def breaking(tree: Path) -> subprocess.CompletedProcess[str]:
    """As `make contracts` asks; buf's cache stays within the test."""
    return subprocess.run(
        [BUF, "breaking", "--against", ROOT / "protos" / "released.binpb"],
        cwd=tree,
        env={"HOME": str(tree), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def without(tree: Path, text: str, file: Path = RULES) -> None:
    whole = (tree / file).read_text()
    assert text in whole
    (tree / file).write_text(whole.replace(text, ""))


def test_the_protos_break_nobody_who_uses_the_released_ones(tree: Path) -> None:
    found = breaking(tree)

    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_an_rpc_that_is_taken_away_is_refused(tree: Path) -> None:
    without(tree, DELETE_RULE)

    found = breaking(tree)

    assert found.returncode != 0
    assert "DeleteRule" in found.stdout


def test_a_service_that_is_taken_away_is_refused(tree: Path) -> None:
    whole = (tree / RULES).read_text()
    service = whole[whole.index("service RuleService {") : whole.index("\n}\n") + 3]
    without(tree, service)

    found = breaking(tree)

    assert found.returncode != 0
    assert "RuleService" in found.stdout


def test_a_field_that_is_taken_away_is_refused(tree: Path) -> None:
    without(tree, "  int64 expected_version = 3;\n")

    found = breaking(tree)

    assert found.returncode != 0
    assert "expected_version" in found.stdout
