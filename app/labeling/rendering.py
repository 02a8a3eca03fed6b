"""Markdown, code, tables and LaTeX of models and people as HTML that cannot do anything.

Two walls stand behind each other, and the page's content-security policy behind both: the Markdown
parser writes no raw HTML, no images and no links (an address is shown as text, so nothing is loaded
from elsewhere and nobody is led away); and whatever comes out, formulas above all, passes nh3's
list of allowed elements. Headings start two levels down, below the page's own.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

MAX_RENDERED = (
    20_000  # characters; what is longer is shown as text, for parsing it may take seconds
)
MAX_FORMULA = 2_000
HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6"}
_MARKDOWN = """
    p br hr h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td
"""
_MATH = """
    math mrow mi mo mn ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover
    munderover mtable mtr mtd mstyle mpadded mphantom menclose mmultiscripts mprescripts
    none
"""
MARKDOWN_TAGS, MATH_TAGS = set(_MARKDOWN.split()), set(_MATH.split())
ATTRIBUTES = {
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "separator", "movablelimits"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign"},
    "mtd": {"columnalign"},
    "ol": {"start"},
}


@lru_cache(maxsize=2000)
def render(text: str) -> str | None:
    """Sanitised HTML of a text; None when it is too long and has to be shown as it is."""
    if len(text) > MAX_RENDERED:
        return None
    return sanitise(MARKDOWN.render(text))


def sanitise(html: str) -> str:
    """Only the elements and attributes named above; of scripts and styles not even the words."""
    return nh3.clean(
        html,
        tags=MARKDOWN_TAGS | MATH_TAGS,
        attributes=ATTRIBUTES,
        clean_content_tags={"script", "style"},
        url_schemes=set(),
        link_rel=None,
    )


def formula(source: str, block: bool) -> str:
    """LaTeX as MathML; what does not parse is shown as it was written."""
    if len(source) <= MAX_FORMULA:
        try:
            return convert(source, display="block" if block else "inline")
        except (
            Exception
        ):  # a parser of its own for a language without a grammar: anything is raised
            pass
    return f"<code>{escape(source)}</code>"


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    parser.use(
        dollarmath_plugin,
        allow_labels=False,
        allow_digits=False,  # $5 and $6 are prices
        double_inline=True,
        renderer=lambda source, options: formula(source, options["display_mode"]),
    )
    for kind in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(kind, _math)
    parser.inline.ruler.before("escape", "bracket_math", _bracket_math)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _nothing)
    parser.add_render_rule("link_close", _address)
    parser.add_render_rule("heading_open", _heading)
    parser.add_render_rule("heading_close", _heading)
    return parser


def _math(
    _self: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    token = tokens[index]
    return formula(token.content.strip(), token.type != "math_inline")


def _bracket_math(state: StateInline, silent: bool) -> bool:
    r"""The other way to write formulas, \( \) in the line and \[ \] displayed."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in (r"\(", r"\["):
        return False
    end = state.src.find(r"\)" if opening == r"\(" else r"\]", state.pos + 2)
    if end < 0 or end + 2 > state.posMax:
        return False
    if not silent:
        kind = "math_inline" if opening == r"\(" else "math_inline_double"
        token = state.push(kind, "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _image(
    _self: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    """Nothing is loaded: the description and the address are what is left of a picture."""
    token = tokens[index]
    return str(escape(f"[picture: {token.content}] ({token.attrGet('src')})"))


def _nothing(
    _self: RendererHTML, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any
) -> str:
    return ""


def _address(
    _self: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    """Where the link would have led, unless its words say that already."""
    opened = max(i for i in range(index) if tokens[i].type == "link_open")  # links do not nest
    if tokens[opened].markup == "autolink":
        return ""
    return str(escape(f" ({tokens[opened].attrGet('href')})"))


def _heading(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any
) -> str:
    token = tokens[index]
    token.tag = HEADINGS.get(token.tag, token.tag)
    return self.renderToken(tokens, index, options, env)


MARKDOWN = _parser()
