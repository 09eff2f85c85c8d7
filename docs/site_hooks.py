"""Hooks for mkdocs: formulas without scripts, notebooks as pages, and links of guides to files outside docs/."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"
DOWNLOAD = {"en": "This page as a notebook", "zh": "下载本页的 notebook"}


def on_files(files, config):
    """Pages of the site are also the notebooks, and the tables of the benchmarks that guides link to."""
    for file in [*_notebook_pages(config), *_benchmark_tables(config)]:
        files.append(file)
    return files


def _notebook_pages(config):
    """Each notebook as a page with the output that it holds; its pictures are files beside the page."""
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, found = MarkdownExporter().from_filename(path, {"unique_key": path.stem, "output_files_dir": ""})
        yield File.generated(config, f"notebooks/{path.stem}.md", content=text)
        for name, picture in found["outputs"].items():
            yield File.generated(config, f"notebooks/{name}", content=picture)


def _benchmark_tables(config):
    """The tables that guides link to, with the pictures that they show."""
    guides = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    for name in sorted(set(re.findall(rf"\]\(\.\./{RESULTS}/([^)#]+)", guides))):
        table = (ROOT / RESULTS / name).read_text(encoding="utf-8")
        for published in (name, *re.findall(r"!\[[^\]]*\]\(([^)]+)\)", table)):
            file = File.generated(config, f"{RESULTS}/{published}", abs_src_path=str(ROOT / RESULTS / published))
            file.inclusion = file.inclusion.NOT_IN_NAV
            yield file


def on_page_markdown(markdown, page, **_):
    """In the repository these tables are beside docs/, in the site below it; and the code is not in the site."""
    markdown = re.sub(r"(\]\([\w/.-]*)\.ipynb\b", r"\1.md", markdown)
    if page.file.src_uri.startswith("notebooks/"):
        name = Path(page.file.src_uri).stem
        return f"{markdown}\n\n[{DOWNLOAD[_language(page)]}]({name}.ipynb)\n"
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def on_page_context(context, page, config, **_):
    """A page in Chinese says so to browsers and screen readers, and has the theme's words in Chinese."""
    config.theme["language"] = _language(page)
    return context


def _language(page):
    return "zh" if page.file.src_uri.endswith(".zh-CN.md") else "en"


def on_page_content(content, **_):
    """LaTeX, which arithmatex has marked, becomes MathML, which browsers draw by themselves."""
    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    block = r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>'
    content = re.sub(inline, lambda found: convert(html.unescape(found[1])), content, flags=re.DOTALL)
    return re.sub(block, lambda found: convert(html.unescape(found[1]), display="block"), content, flags=re.DOTALL)
