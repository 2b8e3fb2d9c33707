"""docs/environment.md lists the environment variables that the sources read, no more and no fewer."""

import re
from pathlib import Path

import hqfkernels

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path(hqfkernels.__file__).resolve().parents[1]  # beside this file, or a wheel elsewhere
SOURCES = {
    INSTALLED / "hqfkernels": ".py",
    INSTALLED / "hqfnet": ".py",
    ROOT / "bench": ".py .sh",
    ROOT / "tests": ".py",
    ROOT / "csrc": ".cpp .hpp .cu .cuh .sh",
}
NAME = r"(HQF_[A-Z_]+)"
READ = [  # a name that is a key of a dictionary display is set, not read
    rf'environ(?:\.get|\.pop|\.setdefault)?[(\[]\s*"{NAME}"',
    rf'"{NAME}" (?:not )?in os\.environ',
    rf'getenv\("{NAME}"',
    rf"\$\{{?{NAME}",
]


def read_by(text: str) -> set[str]:
    return {name for pattern in READ for name in re.findall(pattern, text)}


def test_patterns_tell_reading_from_setting():
    for text in (
        'os.environ["HQF_X"]',
        'os.environ.get("HQF_X", "")',
        'if "HQF_X" not in os.environ:',
        'std::getenv("HQF_X")',
        "echo ${HQF_X:-1}",
    ):
        assert read_by(text) == {"HQF_X"}, text
    for text in ('{**os.environ, "HQF_X": "1"}', 'run(code, HQF_X="1")', "#ifdef HQF_X", "-DHQF_X=1"):
        assert not read_by(text), text


def test_the_page_lists_what_the_sources_read():
    files = [ROOT / "setup.py", ROOT / "Makefile"]
    for folder, endings in SOURCES.items():
        files += [path for path in folder.rglob("*") if path.suffix in endings.split()]
    files.remove(Path(__file__))
    read = set().union(*(read_by(path.read_text()) for path in files))
    listed = re.findall(rf"^\| `{NAME}` \|", (ROOT / "docs" / "environment.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == read
