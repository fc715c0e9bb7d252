"""Formulas of a web page as TeX: from MathML, from its TeX annotation, and from the delimiters that MathJax reads."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborNode

from app.book.nodes import elements

_DELIMITED = re.compile(r"\\\(((?:[^\\]|\\(?![()]))*+)\\\)|\\\[((?:[^\\]|\\(?![\[\]]))*+)\\\]", re.DOTALL)
_OPERATORS = {
    "\u2211": r"\sum",
    "\u220f": r"\prod",
    "\u222b": r"\int",
    "\u221e": r"\infty",
    "\u2202": r"\partial",
    "\u2207": r"\nabla",
    "\u2264": r"\le",
    "\u2265": r"\ge",
    "\u2260": r"\ne",
    "\u2248": r"\approx",
    "\u2208": r"\in",
    "\u2209": r"\notin",
    "\u2282": r"\subset",
    "\u2286": r"\subseteq",
    "\u222a": r"\cup",
    "\u2229": r"\cap",
    "\u2192": r"\to",
    "\u21d2": r"\Rightarrow",
    "\u21d4": r"\Leftrightarrow",
    "\u00d7": r"\times",
    "\u22c5": r"\cdot",
    "\u00b1": r"\pm",
    "\u2212": "-",
    "\u2200": r"\forall",
    "\u2203": r"\exists",
    "\u2032": "'",
    "\u2061": "",
    "\u2062": "",
    "\u2063": "",
    "\u2064": "",
    "{": r"\{",
    "}": r"\}",
}
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩϵϕϑ",  # Greek letters, as formulas have them.
        (
            *(
                [
                    r"\alpha",
                    r"\beta",
                    r"\gamma",
                    r"\delta",
                    r"\varepsilon",
                    r"\zeta",
                    r"\eta",
                    r"\theta",
                    r"\iota",
                    r"\kappa",
                    r"\lambda",
                    r"\mu",
                    r"\nu",
                    r"\xi",
                ]
            ),
            *(
                [
                    r"\pi",
                    r"\rho",
                    r"\sigma",
                    r"\tau",
                    r"\upsilon",
                    r"\varphi",
                    r"\chi",
                    r"\psi",
                    r"\omega",
                    r"\Gamma",
                    r"\Delta",
                    r"\Theta",
                    r"\Lambda",
                    r"\Xi",
                ]
            ),
            *([r"\Pi", r"\Sigma", r"\Upsilon", r"\Phi", r"\Psi", r"\Omega", r"\epsilon", r"\phi", r"\vartheta"]),
        ),
        strict=True,
    )
)
_ACCENTS = {
    "^": "hat",
    "\u02c6": "hat",
    "\u00af": "bar",
    "\u203e": "overline",
    "~": "tilde",
    "\u02dc": "tilde",
    "\u2192": "vec",
    "\u20d7": "vec",
    "\u02d9": "dot",
    "\u00a8": "ddot",
    ".": "dot",
}


def with_dollars(text: str) -> str:
    r"""Return the text with dollars around its formulas, in place of MathJax's `\\(…\\)` and `\\[…\\]`."""
    if "\\" not in text:
        return text
    return _DELIMITED.sub(lambda found: inline(found[1]) if found[1] is not None else displayed(found[2]), text)


def inline(tex: str) -> str:
    """Return a formula as it stands in a line."""
    return f"${' '.join(tex.split())}$" if tex.strip() else ""


def displayed(tex: str) -> str:
    """Return a formula as it stands by itself."""
    return f"$${' '.join(tex.split())}$$" if tex.strip() else ""


def tex_of(math: LexborNode) -> str:
    """Return what a `math` element says, as TeX: what its author wrote if it is there, or else its MathML."""
    for annotation in math.css("annotation"):
        if "tex" in (annotation.attributes.get("encoding") or "").lower():
            return annotation.text().strip()
    return (math.attributes.get("alttext") or "").strip() or " ".join(_tex(math).split())


def _tex(node: LexborNode) -> str:  # noqa: C901, PLR0911  # Each element has its own form.
    parts = [_tex(part) for part in elements(node)]
    match node.tag, parts:
        case (("mi" | "mn" | "mo" | "mtext" | "ms"), _):
            return _token(node)
        case "annotation" | "annotation-xml", _:
            return ""
        case "mfrac", [above, below]:
            return rf"\frac{{{above}}}{{{below}}}"
        case "msqrt", _:
            return rf"\sqrt{{{' '.join(parts)}}}"
        case "mroot", [base, index]:
            return rf"\sqrt[{index}]{{{base}}}"
        case "msup", [base, above]:
            return f"{_grouped(base)}^{{{above}}}"
        case (("msub" | "munder"), [base, below]):
            return f"{_grouped(base)}_{{{below}}}"
        case "mover", [base, above]:
            accent = _ACCENTS.get(above) or _ACCENTS.get({r"\to": "\u2192"}.get(above, ""))
            return rf"\{accent}{{{base}}}" if accent else f"{_grouped(base)}^{{{above}}}"
        case (("msubsup" | "munderover"), [base, below, above]):
            return f"{_grouped(base)}_{{{below}}}^{{{above}}}"
        case "mtable", _:
            return rf"\begin{{matrix}}{r' \\ '.join(parts)}\end{{matrix}}"
        case (("mtr" | "mlabeledtr"), _):
            return " & ".join(parts)
        case _:
            return " ".join(part for part in parts if part)


def _token(node: LexborNode) -> str:
    text = " ".join(node.text().split())
    if node.tag == "mtext":
        return rf"\text{{{text}}}" if text else ""
    if node.tag == "mi" and len(text) > 1 and text.isascii() and text.isalpha():
        return rf"\operatorname{{{text}}}"
    return " ".join(filter(None, (_GREEK.get(part, _OPERATORS.get(part, part)) for part in _letters(text))))


def _letters(text: str) -> Iterator[str]:
    """Yield the characters that have a TeX name, and what stands between them."""
    rest = ""
    for character in text:
        if character in _GREEK or character in _OPERATORS:
            if rest:
                yield rest
            yield character
            rest = ""
        else:
            rest += character
    if rest:
        yield rest


def _grouped(base: str) -> str:
    return base if len(base) == 1 or re.fullmatch(r"\\[A-Za-z]+", base) else f"{{{base}}}"
