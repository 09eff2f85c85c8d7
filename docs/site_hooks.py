"""Hooks for mkdocs: formulas without scripts, and links of guides to files outside docs/."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"


def on_files(files, config):
    """The tables of the benchmarks that guides link to are pages of the site too, with the pictures that they show."""
    guides = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    for name in sorted(set(re.findall(rf"\]\(\.\./{RESULTS}/([^)#]+)", guides))):
        table = (ROOT / RESULTS / name).read_text(encoding="utf-8")
        for published in (name, *re.findall(r"!\[[^\]]*\]\(([^)]+)\)", table)):
            file = File.generated(config, f"{RESULTS}/{published}", abs_src_path=str(ROOT / RESULTS / published))
            file.inclusion = file.inclusion.NOT_IN_NAV
            files.append(file)
    return files


def on_page_markdown(markdown, **_):
    """In the repository these tables are beside docs/, in the site below it; and the code is not in the site."""
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def on_page_context(context, page, config, **_):
    """A page in Chinese says so to browsers and screen readers, and has the theme's words in Chinese."""
    config.theme["language"] = "zh" if page.file.src_uri.endswith(".zh-CN.md") else "en"
    return context


def on_page_content(content, **_):
    """LaTeX, which arithmatex has marked, becomes MathML, which browsers draw by themselves."""
    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    block = r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>'
    content = re.sub(inline, lambda found: convert(html.unescape(found[1])), content, flags=re.DOTALL)
    return re.sub(block, lambda found: convert(html.unescape(found[1]), display="block"), content, flags=re.DOTALL)
