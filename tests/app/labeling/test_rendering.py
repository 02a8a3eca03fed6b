"""What becomes of Markdown and LaTeX, and what does not become of hostile texts."""

import time
from html.parser import HTMLParser

import pytest

from app.labeling.rendering import (
    ATTRIBUTES,
    MARKDOWN_TAGS,
    MATH_TAGS,
    MAX_RENDERED,
    formula,
    render,
    sanitise,
)
from tests.app.labeling.hostile import HOSTILE, LATEX


class Elements(HTMLParser):
    """Every element and attribute of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}


def test_the_corpus_is_large_enough():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 60


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_only_harmless_elements_come_out(text):
    """Also of the raw text itself, as if the parser had let it through, and of what comes out
    again: nothing hides until a second parse.

    Mutation seen red: `sanitise` returns what it is given.
    """
    for html in (render(text), sanitise(text)):
        found = Elements(html)
        assert found.tags <= MARKDOWN_TAGS | MATH_TAGS
        assert all(name in ATTRIBUTES.get(tag, ()) for tag, name in found.attributes)
        assert sanitise(html) == html


def test_the_words_of_hostile_texts_stay_readable():
    """What is refused as markup is still what the model wrote, and is read as that."""
    assert render("<b onclick=alert(1)>x</b>") == ("<p>&lt;b onclick=alert(1)&gt;x&lt;/b&gt;</p>\n")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** *b* ~~c~~\nd", "<p><strong>a</strong> <em>b</em> <s>c</s><br>\nd</p>\n"),
        ("# A\n\n###### B", "<h3>A</h3>\n<h6>B</h6>\n"),
        ("3. x\n4. y", '<ol start="3">\n<li>x</li>\n<li>y</li>\n</ol>\n'),
        ("```python\na < b\n```", "<pre><code>a &lt; b\n</code></pre>\n"),
        ("[paper](https://a.example/x)", "<p>paper (https://a.example/x)</p>\n"),
        ("<https://a.example>", "<p>https://a.example</p>\n"),
        (
            "![an owl](https://a.example/owl.png)",
            "<p>[picture: an owl] (https://a.example/owl.png)</p>\n",
        ),
        ("it costs $5, or $6 there", "<p>it costs $5, or $6 there</p>\n"),
    ],
)
def test_markdown(text, html):
    assert render(text) == html


def test_tables():
    html = render("| a | b |\n|--:|---|\n| 1 | `x` |")
    assert "<th>a</th>" in html and "<td><code>x</code></td>" in html


@pytest.mark.parametrize(
    ("text", "display"),
    [
        (r"so $x^2$", "inline"),
        (r"so \(x^2\)", "inline"),
        ("$$\nx^2\n$$", "block"),
        (r"so \[x^2\]", "block"),
        ("\\[\nx^2\n\\]", "block"),
        (r"so $$x^2$$ it is", "block"),
    ],
)
def test_formulas_in_all_their_brackets(text, display):
    html = render(text)
    assert f'<math display="{display}">' in html and "<msup><mi>x</mi><mn>2</mn></msup>" in html


@pytest.mark.parametrize("source", [r"\frac{", "x^2^3", "{" * 5000, r"\left(" * 300])
def test_a_formula_that_is_none_is_shown_as_it_was_written(source):
    assert formula(source, False) == f"<code>{source}</code>"
    assert source in render(f"${source}$")


def test_no_text_takes_long():
    """What is longer than the limit is not rendered; below it, what makes parsers slow."""
    render(r"warm $up$")
    assert render("x" * (MAX_RENDERED + 1)) is None
    for part in ("[", "_a", r"\(", "![", "<", r"$\("):
        text = (part * MAX_RENDERED)[:MAX_RENDERED]
        begun = time.process_time()
        render(text)
        assert time.process_time() - begun < 5, part
    assert all(render(text) is not None for text in LATEX)
