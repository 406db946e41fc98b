r"""Markdown with formulas: $...$ in a line, $$...$$ or \begin{align}...\end{align} on its own, written as MathML.

The rules for a dollar are pandoc's: an opening one stands before, a closing one behind a character that is no space, and
no digit follows the closing one. So "$5 and $6" is money; \$ is always a dollar.
"""

import html
import re

import mistune
from latex2mathml.converter import convert

INLINE = r"(?<![\\$])\$(?=[^\s$])(?P<inline_tex>(?:\\[\s\S]|[^$\\`])+?)(?<=\S)\$(?![\d$])"
DISPLAY = r"\$\$(?P<display_tex>(?:\\[\s\S]|[^$\\])+?)\$\$"
DISPLAY_BLOCK = r"^ {0,3}\$\$(?P<block_tex>(?:\\[\s\S]|[^$\\])+?)\$\$[ \t]*$"
ENVIRONMENT = r"^ {0,3}(?P<environment>\\begin\{(?P<env_name>align|equation|gather)(?P<env_star>\*?)\}[\s\S]+?\\end\{(?P=env_name)(?P=env_star)\})[ \t]*$"

# A name such as log; single letters and \mathrm{...} come letter by letter, \text{...} as <mtext>.
OPERATOR = (
    r"(?P<before></(?:mi|mn|msub|msup|msubsup|mfrac|mtext)>)?<(?P<tag>m[io])[^>]*>(?P<name>[A-Za-z]{2,})</(?P=tag)>"
    r'(?P<after><mo stretchy="false">&#x0*28;</mo>)?'
)


class FormulaFailed(Exception):
    """A formula that cannot be written as MathML."""


def mathml(tex: str, display: bool) -> str:
    """A formula as MathML; FormulaFailed names a command that is not known."""
    bare = re.sub(r"\\[{}]", "", tex)
    if bare.count("{") != bare.count("}"):
        raise FormulaFailed(f"{tex.strip()}: its braces do not match")
    try:
        result = convert(simplify(tex.strip()), display="block" if display else "inline")
    except Exception as error:
        raise FormulaFailed(f"{tex.strip()}: {type(error).__name__} {error}") from error
    if unknown := re.search(r"<m[a-z]+>(\\[A-Za-z]+|&amp;|&)</m", result):
        raise FormulaFailed(f"{tex.strip()}: {unknown[1]} is not known here")
    result = re.sub(OPERATOR, operator, result)
    result = re.sub(r"<mo[^>]*>(\||&#x0*7C;)</mo>", r'<mo lspace="0" rspace="0" stretchy="false">\1</mo>', result) if "left" not in tex else result
    result = re.sub(r"<mo>(&#x0?23D[EF];)</mo>", r'<mo stretchy="true">\1</mo>', result)  # braces over and under
    result = result.replace("<mtable displaystyle", '<mtable class="align" displaystyle')
    result = re.sub(r'<mtd columnalign="(\w+)">', r'<mtd style="text-align: \1; text-align: -webkit-\1">', result)
    return result.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)


def operator(found: re.Match) -> str:
    """A function name, upright, with a thin space between it and a letter or number on either side."""
    before, after = "0.167em" if found["before"] else "0", "0" if found["after"] else "0.167em"
    name = f'<mo form="prefix" lspace="{before}" rspace="{after}" movablelimits="true">{found["name"]}</mo>'
    return (found["before"] or "") + name + (found["after"] or "")


def simplify(tex: str) -> str:
    r"""Spell in another way what latex2mathml does not read: \arg, aligned, \lVert, \mathcal N without braces, \_ inside text."""
    tex = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}", tex)
    tex = re.sub(r"\\[lr]Vert(?![A-Za-z])", r"\\|", tex)
    tex = re.sub(r"\\[lr]vert(?![A-Za-z])", "|", tex)
    tex = re.sub(r"\\(math[a-z]+|boldsymbol)\s+([A-Za-z])", r"\\\1{\2}", tex)
    tex = re.sub(r"\\(begin|end)\{(aligned|split)\}", r"\\\1{align*}", tex)
    tex = re.sub(r"\\(begin|end)\{(gathered|gather\*?)\}", r"\\\1{matrix}", tex)
    tex = re.sub(r"\\(begin|end)\{equation\*?\}", "", tex)
    tex = re.sub(r"\\(begin|end)\{align\}", r"\\\1{align*}", tex)
    tex = re.sub(r"\\(label|tag)\{[^}]*\}|\\nonumber", "", tex)
    return re.sub(r"\\(text[a-z]*)\{([^{}]*)\}", lambda m: f"\\{m[1]}{{{m[2].replace(chr(92) + '_', '_')}}}", tex)


def formulas(markdown: mistune.Markdown) -> None:
    """The plugin for mistune."""

    def block(name: str):
        def parse(_parser, match, state) -> int:
            state.append_token({"type": "display_formula", "raw": match.group(name)})
            return match.end() + 1
        return parse

    def inline(name: str, kind: str):
        def parse(_parser, match, state) -> int:
            state.append_token({"type": kind, "raw": match.group(name)})
            return match.end()
        return parse

    markdown.block.register("display_formula", DISPLAY_BLOCK, block("block_tex"), before="list")
    markdown.block.register("formula_environment", ENVIRONMENT, block("environment"), before="list")
    markdown.inline.register("display_in_line", DISPLAY, inline("display_tex", "display_formula"), before="link")
    markdown.inline.register("inline_formula", INLINE, inline("inline_tex", "inline_formula"), before="link")
    markdown.renderer.register("display_formula", lambda _renderer, tex: mathml(tex, display=True) + "\n")
    markdown.renderer.register("inline_formula", lambda _renderer, tex: mathml(tex, display=False))
