"""Parts without end, over each other, twice, and in scripts and formulas where characters are not letters."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.parts import checked_parts, located  # noqa: E402

# Combining marks, emoji of several characters (one beside the surrogates' border), right to left, Thai.
WORDS = [
    "e\u0301a\u0308o",
    "👩\u200d👧 and \U0001f600\U00010000",
    "\u202bשלום עולם\u202c",
    "مرحبا بالعالم",
    "ภาษาไทย",
]
ODD = "\n\n".join(WORDS)


def part(text: str, start: int, end: int, response: int = 0) -> dict[str, Any]:
    return {"response": response, "start": start, "end": end, "text": text[start:end]}


def test_parts_in_any_script_are_counted_in_characters() -> None:
    at = [ODD.index(words) for words in WORDS]
    parts = [part(ODD, start, start + len(words)) for start, words in zip(at, WORDS, strict=True)]
    assert [p["edited"] for p in checked_parts(parts, ODD, [ODD])] == [False] * 5
    composed = ODD.replace("e\u0301", "\u00e9")  # one character now: that is another text
    assert [p["edited"] for p in checked_parts(parts, composed, [ODD])] == [True, *[False] * 4]


def test_parts_may_lie_over_each_other_and_come_twice() -> None:
    source = "one two three"
    parts = [part(source, 0, 7), part(source, 4, 13), part(source, 0, 7)]
    text = "one two\n\ntwo three\n\none two"
    assert [p["edited"] for p in checked_parts(parts, text, [source])] == [False] * 3
    assert [p["edited"] for p in checked_parts(parts, source, [source])] == [False, True, True]


def test_the_worst_answer_is_looked_through_in_no_time() -> None:
    text = "ab" * 50_000
    began = time.monotonic()
    located(text, ["ab" * 499 + "a"] * 100)
    located("a" * 100_000, ["a" * 50_000 + "b"] * 100)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("count", [100, 101, 500])
def test_more_parts_than_an_answer_has_are_refused_plainly(site: Any, count: int) -> None:
    site.add({"prompt": "P", "responses": ["a word", "b"]})
    ann = site.signed_in()
    task = site.taken(ann)
    a_word = part("a word", 0, 6, site.order(task).index(0))
    edit = {"response": None, "text": "\n\n".join(["a word"] * count), "parts": [a_word] * count}
    content = {"ranks": [1, 2], "quality": [None] * 2, "flags": [[], []], "edit": edit}
    assert ann.post(f"/work/{task['number']}/draft", json=content).status_code == 200, "it is kept as it is"
    reply = site.answer(ann, content, task=task)
    if count == 100:
        assert reply.status_code == 200 and len(site.records("demonstrations")[0]["parts"]) == 100
    else:
        assert reply.json()["detail"] == "An answer has 100 parts at most: take some out."


RESPONSES = [
    f"{ODD}\n\nBefore \\(x^2\\) behind.\n\n\\[\\frac{{1}}{{2}} \\leq y\\]",
    "Twice and twice.",
]
SELECT = """([text, from, to]) => {
  const boxes = [...document.querySelectorAll(".card .shown .prose")];
  for (const box of boxes) {
    const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
      const at = node.data.indexOf(text);
      if (at < 0) continue;
      return getSelection().setBaseAndExtent(node, at + from, node, at + (to ?? text.length));
    }
  }
  throw new Error(`${text} stands nowhere`);
}"""


def opened(site: Any, visit: Any) -> Any:
    site.add({"prompt": "Why?", "responses": RESPONSES})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    page.wait_for_function("!document.querySelector('.card [data-math]:not(:has(.katex))')")
    return page


def take(page: Any, *marked: Any) -> None:
    page.evaluate(SELECT, [*marked, *[0, None][len(marked) - 1 :]])
    page.keyboard.press("+")


def sent(site: Any, page: Any) -> list[dict[str, Any]]:
    page.locator(".card").first.focus()
    page.keyboard.type("ab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    parts = site.records("demonstrations")[0]["parts"]
    return [{**p, "text": RESPONSES[p["response"]][p["start"] : p["end"]]} for p in parts]


def test_any_script_and_formulas_are_taken_as_they_were_written(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    for words in WORDS[:2] + WORDS[3:]:
        take(page, words)
    take(page, "שלום", 0, 2)  # within a word
    page.locator(".card .katex-display").first.evaluate("(box) => getSelection().selectAllChildren(box)")
    page.keyboard.press("+")
    page.locator(".card .shown .katex").first.evaluate(
        "(box) => getSelection().setBaseAndExtent(box, 0, box.closest('p').lastChild, 3)"
    )
    page.keyboard.press("+")
    taken = [p["text"] for p in sent(site, page)]
    assert taken[:5] == [*WORDS[:2], *WORDS[3:], "של"]
    assert taken[5:] == ["\\[\\frac{1}{2} \\leq y\\]", "Before \\(x^2\\) behind."]


def test_the_same_twice_and_over_each_other(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    for marked in (("Twice and twice.",), ("Twice and twice.",), ("Twice and twice.", 6, 15)):
        take(page, *marked)
    assert page.locator(".own .parts li").count() == 3
    assert page.locator(".own .parts .hint").count() == 0
    page.get_by_role("button", name="Take part 1").click()
    assert page.locator("#own-text").input_value() == "Twice and twice.\n\nand twice"
    assert [(p["text"], p["edited"]) for p in sent(site, page)] == [
        ("Twice and twice.", False),
        ("and twice", False),
    ]


def test_the_hundred_and_first_part_is_not_taken(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    for _ in range(101):
        take(page, "Twice", 0, 5)
    assert "100 parts at most" in page.locator("#state").inner_text()
    assert page.locator(".own .parts li").count() == 100
    assert len(sent(site, page)) == 100
