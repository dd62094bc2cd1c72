"""What the build adds to the site: pages of linked source files, the help of each verb, diagrams that work offline."""

import contextlib
import io
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from spatialvla.cli.main import main

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MERMAID = "javascripts/mermaid.min.js"
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".cpp": "cpp"}
LINK = re.compile(r"\]\((?P<path>(?:\.\./)+[\w./-]+)\)")
HELP = re.compile(r"<!-- help: (?P<verb>[a-z -]*)-->")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draws diagrams with docs/javascripts/mermaid.min.js if it is there; else browsers fetch Mermaid."""
    if (DOCS / MERMAID).exists():
        config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every source file that a page links to."""
    for source in sorted({path for page in files.documentation_pages() for path in linked_sources(page)}):
        code = f"``````{LANGUAGES.get(source.suffix, 'text')}\n{(ROOT / source).read_text()}\n``````"
        front = "---\nsearch: {exclude: true}\n---\n"
        content = f"{front}\n# {source.name}\n\n`{source}`\n\n{code}\n"
        files.append(File.generated(config, f"source/{source}.md", content=content))
    return files


def linked_sources(page: File) -> set[Path]:
    """The files outside of docs/ that a page links to, from the repository's root."""
    text = page.content_string
    folder = posixpath.dirname(f"docs/{page.src_uri}")
    paths = {posixpath.normpath(posixpath.join(folder, link["path"])) for link in LINK.finditer(text)}
    return {Path(path) for path in paths if not path.startswith("docs/") and (ROOT / path).is_file()}


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at the pages of source files, and puts the real help where a page asks for it."""

    def to_page(link: re.Match[str]) -> str:
        folder = posixpath.dirname(f"docs/{page.file.src_uri}")
        source = posixpath.normpath(posixpath.join(folder, link["path"]))
        if source.startswith("docs/") or not files.get_file_from_path(f"source/{source}.md"):
            return link[0]
        return f"]({posixpath.relpath(f'docs/source/{source}.md', folder)})"

    markdown = LINK.sub(to_page, markdown)
    return HELP.sub(lambda marker: f"```text\n{help_of(*marker['verb'].split())}\n```", markdown)


def help_of(*verb: str) -> str:
    """What `spatialvla VERB --help` prints, in 84 columns."""
    printed = io.StringIO()
    os.environ["COLUMNS"] = "84"
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*verb, "--help"])
    return printed.getvalue().strip()
