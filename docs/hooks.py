"""What MkDocs is told beyond mkdocs.yml: files outside docs/ that belong to the site, and links to them.

Pages link as the repository's files do, so that they can be read there too; in the site these links lead to copies.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    **{path.name: path.name.lower() for path in ROOT.glob("*.md") if path.name != "README.md"},
    **{f"bench/results/{path.name}": f"results/{path.name}" for path in ROOT.glob("bench/results/*") if path.is_file()},
}
"""Path in the repository -> path in the site."""

INSIDE = {place: source for source, place in OUTSIDE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files from outside."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between docs/ and what is outside into links within the site."""
    own = page.file.src_uri
    folder = posixpath.dirname(INSIDE.get(own, f"docs/{own}"))

    def follow(link: re.Match[str]) -> str:
        path, hash_sign, anchor = link[1].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        place = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(own))}{hash_sign}{anchor})"

    return re.sub(r"\]\(((?!\w+:|#)[^)\s]+)\)", follow, markdown)
