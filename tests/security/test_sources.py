"""What the sources never do, whoever writes them: read, not run."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNNING = sorted(
    file
    for folder in ("runtime/src", "services")
    for file in (ROOT / folder).rglob("*.py")
    if "migrations" not in file.parts
)
NEVER_CALLED = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle.loads",
    "pickle.load",
    "marshal.loads",
    "shelve.open",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
    "tempfile.mktemp",
    "ssl._create_unverified_context",
    "breakpoint",
    "faulthandler.register",
}
NEVER_IMPORTED = {"pickle", "marshal", "shelve", "jinja2", "telnetlib", "xml", "subprocess"}
NEVER_PASSED = {"verify": False, "shell": True, "debug": True, "check_hostname": False}


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What stands in a module and must not, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if (name := dotted(node.func)) in NEVER_CALLED:
                yield f"{node.lineno}: {name}()"
            for word in node.keywords:
                value = word.value.value if isinstance(word.value, ast.Constant) else None
                if word.arg in NEVER_PASSED and value is NEVER_PASSED[word.arg]:
                    yield f"{node.lineno}: {word.arg}={value}"
        elif isinstance(node, ast.Assert):
            # Gone under -O; what tells the type checker something stands behind a noqa with that.
            yield f"{node.lineno}: assert"
        elif isinstance(node, ast.Import):
            names = {each.name.partition(".")[0] for each in node.names}
            yield from (f"{node.lineno}: import {name}" for name in names & NEVER_IMPORTED)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if (name := node.module.partition(".")[0]) in NEVER_IMPORTED:
                yield f"{node.lineno}: from {name}"
        elif isinstance(node, ast.Attribute) and node.attr == "CERT_NONE":
            yield f"{node.lineno}: CERT_NONE"


def test_there_are_sources_to_read() -> None:
    assert len(RUNNING) > 80


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "pickle.loads(data)",
        "import pickle",
        "from xml.etree import ElementTree",
        "httpx.AsyncClient(verify=False)",
        "Starlette(debug=True)",
        "context.verify_mode = ssl.CERT_NONE",
        "assert user.is_admin",
    ],
)
def test_what_is_forbidden_is_found(line: str) -> None:
    assert list(forbidden(ast.parse(line)))


@pytest.mark.parametrize("file", RUNNING, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_does_nothing_of_what_none_may(file: Path) -> None:
    lines = file.read_text().splitlines()

    found = list(forbidden(parsed(file)))
    unexcused = [
        each
        for each in found
        if not (each.endswith("assert") and "noqa: S101" in lines[int(each.partition(":")[0]) - 1])
    ]

    assert unexcused == []


def test_the_linter_looks_for_insecure_code_in_everything_that_runs() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]

    assert "S" in ruff["select"]
    assert not any(rule.startswith("S") and rule != "SIM" for rule in ruff["ignore"])
    for pattern, ignored in ruff["per-file-ignores"].items():
        if pattern.startswith(("services/", "runtime/")):
            assert not {rule for rule in ignored if rule.startswith("S") and rule[1:].isdigit()}


@pytest.mark.parametrize("file", RUNNING, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_digest_is_compared_by_an_operator(file: Path) -> None:
    """hmac.compare_digest takes the same time wherever two differ; == does not."""
    found = [
        node.lineno
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and any(
            isinstance(side, ast.Call) and dotted(side.func).endswith((".digest", ".hexdigest"))
            for side in (node.left, *node.comparators)
        )
    ]

    assert found == []


TEMPLATES = ROOT / "services/rules/src/pagewire_rules/templates.py"


def test_a_persons_template_meets_no_formatting_of_pythons() -> None:
    calls = [
        dotted(node.func) for node in ast.walk(parsed(TEMPLATES)) if isinstance(node, ast.Call)
    ]
    operators = [
        node
        for node in ast.walk(parsed(TEMPLATES))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod)
    ]

    assert not [name for name in calls if name.endswith((".format", ".format_map", "Template"))]
    assert operators == []
