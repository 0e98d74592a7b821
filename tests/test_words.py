"""No text of the project uses the words that CONTRIBUTING.md bans."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import cellseg

ROOT = Path(cellseg.__file__).parents[1]
BANNED = {  # the word: what to write instead
    r"(is|are|was|were|be) told": "the report lists, prints, says",
    r"(is|are|was|were) said": "the report lists, prints, says",
    r"no telling": "unknown",
    r"so many": "a number",
    r"the (same )?command (to give|again gives)|give the (same )?command": "run the same command again",
    r"mend(s|ed|ing)?": "fix",
    r"whom": "a sentence with a subject",
    r"of course|needless to say": "nothing",
    r"simply|merely": "nothing",
    r"is no number|are no numbers|no number any more": "NaN or infinite",
    r"hardly": "almost not, rarely",
    r"goes? on (with|from)": "continues",
    r"siblings?": "images of one group",
}
PATTERN = re.compile("|".join(rf"\b(?:{words})\b" for words in BANNED), re.IGNORECASE)
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
    *sorted(ROOT.glob("conf/**/*.yaml")),
    *sorted(ROOT.glob("cellseg/**/*.jinja")),
]
CODE = sorted(ROOT.glob("cellseg/**/*.py"))


def texts_of(path: Path) -> list[tuple[int, str]]:
    """Comments, docstrings and other strings of a Python file, by line."""
    source = path.read_text(encoding="utf-8")
    found = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node.lineno, node.value))
    return found


@pytest.mark.parametrize("path", [*TEXTS, *CODE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_uses_a_banned_word(path):
    if path.name == "CONTRIBUTING.md":  # which lists them
        return
    if path.suffix == ".py":
        lines = texts_of(path)
    else:
        lines = list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    bad = [f"{path.name}:{line}: {found[0]}" for line, text in lines for found in PATTERN.finditer(text)]
    assert not bad


def test_the_list_finds_what_it_bans():
    assert PATTERN.search("What is left out is told at the end")
    assert PATTERN.search("mend that, and give the command again")
    assert not PATTERN.search("The report lists runs without a counterpart and recommends seeds")
