"""The notebooks of docs/notebooks: runs them and keeps what they print and draw in the files (`make notebooks`).

A translation has the code of the English notebook and takes its output. The answers of the exercises are folded
`<details>` in the text; their code is run too, in its place, and what it prints stands below it in a block `text`.
"""

import io
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent / "notebooks"
ANSWER = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)
# Figures have few colours; a palette makes their files a third as large.
COLOURS = 64
# Seconds for the start of a kernel and for a cell, which take less than 10 on a core that does nothing else.
PATIENCE = 600


def english():
    return sorted(path for path in FOLDER.glob("*.ipynb") if ".zh-CN" not in path.name)


def translation(path):
    return path.with_name(path.name.replace(".ipynb", ".zh-CN.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_answers(notebook):
    """A copy without output, with the code of each answer as a cell, whose `metadata.shown` is its output."""
    cells = []
    for cell in notebook.cells:
        cells.append(nbformat.from_dict(cell | ({"outputs": []} if cell.cell_type == "code" else {})))
        if cell.cell_type == "markdown":
            for code, shown in ANSWER.findall(cell.source):
                cells.append(nbformat.v4.new_code_cell(code.rstrip(), metadata={"shown": shown}))
    return nbformat.from_dict(notebook | {"cells": cells})


def run(notebook, folder):
    """Runs a notebook with its answers in a new kernel in `folder`, and returns it with all output."""
    notebook = with_answers(notebook)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=PATIENCE, startup_timeout=PATIENCE, resources=resources).execute()
    return notebook


def text_of(cell):
    """What the cell printed, to the standard output."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def number_of_pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def kept(cell):
    """The output of a cell as files keep it: what it printed, then its pictures with a palette."""
    text, new = text_of(cell), nbformat.v4.new_output
    pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    printed = [new("stream", name="stdout", text=text)] if text else []
    return printed + [new("display_data", {"image/png": smaller(png)}) for png in pictures]


def smaller(png):
    """A PNG in base64 with a palette of `COLOURS`, in base64."""
    image = Image.open(io.BytesIO(b64decode(png))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return b64encode(file.getvalue()).decode()


def write(notebook, path):
    notebook = nbformat.from_dict(notebook)
    for cell in code_cells(notebook):
        cell.execution_count = None
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def main():
    for path in english():
        print(path.name, flush=True)
        notebook = read(path)
        with tempfile.TemporaryDirectory() as folder:
            done = run(notebook, folder)
        ran = [cell for cell in code_cells(done) if "shown" not in cell.metadata]
        for answer in (cell for cell in code_cells(done) if "shown" in cell.metadata):
            if text_of(answer) != answer.metadata.shown:
                sys.stdout.write(f"An answer prints, other than it shows:\n{text_of(answer)}")
        for target in (path, translation(path)):
            if target.exists():
                notebook = read(target)
                for cell, source in zip(code_cells(notebook), ran, strict=True):
                    cell.outputs = kept(source)
                write(notebook, target)


if __name__ == "__main__":
    main()
