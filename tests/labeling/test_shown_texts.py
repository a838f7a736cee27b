"""What is shown is what is trained: LaTeX, indented prose, prices and links in what people judge."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.web.markdown import safe_html  # noqa: E402

INLINE = '<span data-math="inline">{}</span>'
DISPLAY = '<div data-math="display">{}</div>'


@pytest.mark.parametrize(
    "formula",
    [
        r"$a*b*c$",
        r"\(x_1 * y_2 * z_3\)",
        r"$\{a \\ b\} \_ \#$",
        r"$2 \text{ apples}$",
        r"\((a \\) b\)",
    ],
)
def test_markdown_leaves_a_formula_as_it_was_written(formula: str) -> None:
    html = safe_html(f"so {formula} and *this*")
    assert INLINE.format(formula.replace("&", "&amp;")) in html and "<em>this</em>" in html


@pytest.mark.parametrize(
    "formula",
    [
        "\\[\nx\n- y\n= z\n\\]",
        "$$\na_1*b*c \\\\\n# d\n$$",
        "\\begin{align*}\na & b \\\\\n> c\n\\end{align*}",
        "$$x = 1$$.",
    ],
)
@pytest.mark.parametrize("text", ["{}", "Then:\n{}\nand so on", "Then:\n\n{}\n\nand so on"])
def test_a_formula_on_lines_of_its_own_is_no_list_and_no_heading(formula: str, text: str) -> None:
    html = safe_html(text.format(formula))
    assert DISPLAY.format(formula.replace("&", "&amp;").replace(">", "&gt;")) in html
    assert "<li>" not in html and "<h" not in html and "<blockquote" not in html


def test_a_formula_in_a_list_and_a_quotation() -> None:
    html = safe_html("- item\n\n  \\[\n  y^2\n  \\]\n- next\n\n> $$\n> z\n> $$\n")
    assert html.count("<li>") == 2 and DISPLAY.format("\\[\ny^2\n\\]") in html
    assert DISPLAY.format("$$\nz\n$$") in html


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $10",
        "US$5-US$10",
        "from $5 (it was 10$)",
        "5$ a month, 10$ a year",
        "$HOME/$USER",
        "$20k–$30k",
        "$$",
        "a $$ b",
        "$$$ and $$$",
        "one $ alone, and $ again",
        "`$x$`",
        "```\n$x$ \\(y\\)\n```",
    ],
)
def test_prices_and_code_are_no_formulas(text: str) -> None:
    assert "data-math" not in safe_html(text)


def test_brackets_that_markdown_escapes_stay_brackets() -> None:
    assert safe_html(r"as in \[1\] and \[a note\]") == '<p dir="auto">as in [1] and [a note]</p>\n'


def test_letters_of_other_scripts_and_endings_may_stand_beside_a_formula() -> None:
    for text, formula in (("价格$x$的", "$x$"), ("the $n$th", "$n$"), ("$k$-means", "$k$")):
        assert INLINE.format(formula) in safe_html(text)


def test_a_formula_brings_no_elements_of_its_own() -> None:
    for text in (r"\(</span><script>alert(1)</script>\)", "$$\n<img src=x onerror=alert(1)>\n$$"):
        html = safe_html(text)
        assert "<script" not in html and "<img" not in html and "&lt;" in html


def test_four_spaces_make_no_code_and_fences_do() -> None:
    assert "<code" not in safe_html("    It was *late*.\n\n    Nobody came.")
    assert "<em>late</em>" in safe_html("    It was *late*.")
    assert "<pre><code>    x = 1\n</code></pre>" in safe_html("```\n    x = 1\n```")


def test_links_open_outside_and_none_leads_into_the_app() -> None:
    html = safe_html("[a](https://example.com) <mailto:b@example.com> [c](/people) [d](//x.org) [e](x?y)")
    assert html.count('target="_blank" rel="noopener noreferrer nofollow"') == 2
    assert html.count("href=") == 2 and ">c</a>" in html


def test_each_paragraph_has_a_direction_of_its_own() -> None:
    html = safe_html("שלום\n\nhello\n\n- x\n\n> y\n\n### z")
    for start in ("<p", "<ul", "<blockquote", "<h5"):
        assert f'{start} dir="auto">' in html


@pytest.mark.parametrize(
    "text",
    [
        r"\(" * 50_000,
        r"\(\\)" * 25_000,
        "$a " * 33_000,
        "\\[\n" * 33_000,
        ("\\[\n" * 99 + "\\] x\n") * 330,
        "\\begin{align}\n" * 7_000,
    ],
    ids=["open", "escaped", "dollars", "lines", "text behind", "environments"],
)
def test_openings_without_an_end_take_no_longer_than_other_text(text: str) -> None:
    safe_html("warm")
    start = time.process_time()
    safe_html(text)
    assert time.process_time() - start < 6
