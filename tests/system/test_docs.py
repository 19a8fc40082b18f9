"""The documentation names all modules, settings and metrics."""

import itertools
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from service import config
from service.cli.main import main
from tests.api import Api

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL_LINES = [
    line
    for page in (README, OPERATIONS)
    for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("guest-sessions ")
]


def names_in(text: str, cell: int) -> set[str]:
    """The `names` in one cell of every row of a page's tables."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`{]+)(?:\{[^`]*)?`", row[cell])}


def test_every_module_has_its_place_in_the_architecture() -> None:
    modules = {path.stem for path in (ROOT / "service").rglob("*.py")} - {"__init__", "__main__"}

    assert modules - names_in(ARCHITECTURE, 2) == set()


def test_the_operator_finds_every_setting_by_its_concern() -> None:
    assert names_in(OPERATIONS, 2) >= set(config.NAMES)


async def test_the_operator_finds_every_metric_and_no_other(api: Api) -> None:
    await api.issue()
    await api.verify("no token")
    text = (await api.get("/metrics")).body.decode()
    served = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if not name.endswith("_created")}
    table = OPERATIONS.partition("## Metrics")[2].partition("##")[0]
    documented = {name for name in names_in(table, 1) if name.startswith("guest_")}
    by_state = {f"guest_sessions_keys{name}" for name in names_in(table, 1) if name.startswith("_")}

    assert documented | by_state == served


@pytest.mark.parametrize("line", SHELL_LINES)
def test_every_command_that_is_named_is_there_with_its_options(line: str) -> None:
    words = line.partition("#")[0].split()[1:]
    command = [*itertools.takewhile(lambda word: re.fullmatch("[a-z]+", word), words)]
    options = [word for word in words if word.startswith("--")]

    shown = CliRunner().invoke(main, [*command, "--help"])

    assert shown.exit_code == 0
    assert [option for option in options if option not in shown.output] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text(encoding="utf-8"))

    assert [target for target in targets if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether the file is there, and the heading in it where the link names one."""
    path, _, heading = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not heading or heading in headings(file))


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual hosts of repositories make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
