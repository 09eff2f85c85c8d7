"""What the site needs beyond mkdocs: formulas that no script has to draw, and the files outside docs/ that guides link to."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"


def on_files(files, config):
    """The tables and pictures of the benchmarks are pages of the site too."""
    for path in sorted((ROOT / RESULTS).glob("*")):
        if path.suffix in (".md", ".png"):
            file = File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path))
            file.inclusion = file.inclusion.NOT_IN_NAV
            files.append(file)
    return files


def on_page_markdown(markdown, **_):
    """In the repository they are beside docs/, in the site below it."""
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")


def on_page_content(content, **_):
    """LaTeX, which arithmatex has marked, becomes MathML, which browsers draw by themselves."""
    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    block = r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>'
    content = re.sub(inline, lambda found: convert(html.unescape(found[1])), content, flags=re.DOTALL)
    return re.sub(block, lambda found: convert(html.unescape(found[1]), display="block"), content, flags=re.DOTALL)
