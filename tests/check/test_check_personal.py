"""Personal data and keys in records: what is found by its form, what is not, and what is shown of it.

Numbers are published ones: IBANs of the SWIFT registry, test cards of the networks, addresses of BIP 173 and
of Bitcoin's first block, AWS's documented key. None is a person's.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ROOT, write_jsonl

from align.check import personal
from align.check.personal import Hit, masked, personal_data
from align.check.result import Finding, Report
from align.check.run import check
from align.check.show import lines
from align.recipe.load import load_recipe

REAL = ROOT.parent / "shared" / "data"
needs_extra = pytest.mark.skipif(
    not personal.can_look(), reason="the extra `privacy` is not installed (phonenumberslite, python-stdnum)"
)
Make = Callable[..., Path]


@needs_extra
@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("write to jane.doe+films@web.de.", "email", "jane.doe+films@web.de"),
        ("<a href='mailto:jane@uni-köln.de'>jane@mail.web.co.uk</a>", "email", "jane@mail.web.co.uk"),
        ("call +49 30 901820 today", "phone", "+49 30 901820"),
        ("call +33 1 42 68 53 00, please", "phone", "+33 1 42 68 53 00"),
        ("Tel.: (212) 736-5000", "phone", "(212) 736-5000"),
        ("212-736-5000.", "phone", "212-736-5000"),
        ("my card, 4111 1111 1111 1111, is", "card", "4111 1111 1111 1111"),
        ("5555555555554444", "card", "5555555555554444"),
        ("amex 3782-822463-10005!", "card", "3782-822463-10005"),
        ("IBAN GB82 WEST 1234 5698 7654 32 FROM HER", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("FR14 2004 1010 0505 0001 3M02 606", "iban", "FR14 2004 1010 0505 0001 3M02 606"),
        ("pay to NO9386011117947", "iban", "NO9386011117947"),
        ("SSN: 536-90-4399", "ssn", "536-90-4399"),
        ("the server 8.8.8.8 answers", "ip", "8.8.8.8"),
        ("at 2001:4860:4860::8888 too", "ip", "2001:4860:4860::8888"),
        (
            "send it to bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "wallet",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        ),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "wallet", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("key=AKIAIOSFODNN7EXAMPLE", "key", "AKIAIOSFODNN7EXAMPLE"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", "key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("token: ghp_" + "a1B2" * 9, "key", "ghp_" + "a1B2" * 9),
    ],
)
def test_found(text: str, kind: str, value: str) -> None:
    assert personal_data(text) == [Hit(kind, value)]


@needs_extra
@pytest.mark.parametrize(
    "text",
    [
        "write to you@example.com, root@localhost.localhost or git@github.com",  # nobody's
        "https://maps.example.net/place/@37.3362725,-121.8244116",
        "from 1689–1725, and in 1692/93; chapters 12-14; 2023-11-28 10:15:30",
        "16128-3294 = <<16128-3294=12834>>12834",
        "c = 299792458 m/s, and 6.02214076 10 23",
        "4111 1111 1111 1112 and 0000 0000 0000 0000",  # a wrong check digit; no network
        "GB82 WEST 1234 5698 7654 33",
        "000-12-3456, 666-12-3456, 078-05-1120",  # none of these is ever given out
        "555-0134, (212) 555-0134",  # films' numbers
        "version 1.2.3.4, v10.20.30.40, 192.168.0.1, 127.0.0.1, 1.2.3.4.5, 300.1.1.1",
        "night :: day :: dusk ::: dawn, fe80::1, ::1",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "a task-oriented talk, sk-learn, npm_config, SG.a.b",
        "the sha 0x" + "ab" * 32,
    ],
)
def test_what_only_looks_so_is_not(text: str) -> None:
    assert personal_data(text) == []


@needs_extra
def test_one_text_may_hold_many_and_each_is_said_once() -> None:
    text = "jane@web.de, jane@web.de; 4111 1111 1111 1111 or (212) 736-5000\njoe@web.de"
    assert [hit.value for hit in personal_data(text)] == [
        "jane@web.de",
        "joe@web.de",
        "(212) 736-5000",
        "4111 1111 1111 1111",
    ]
    shown = masked(text, personal_data(text))
    assert "1111" not in shown and "736" not in shown and "jane@" not in shown and "41…11" in shown


def checked(tmp_path: Path, tiny_recipe: Make) -> Report:
    """Of four demonstrations, a prompt has a card's number and an answer an address, and a key."""
    rows = [{"prompt": f"Is shop {i} open?", "response": " Yes, until six."} for i in range(4)]
    rows[1]["prompt"] = "My card 4111 1111 1111 1111 is lost, what now?"
    rows[2]["response"] = " Write to jane.doe@web.de with the key AKIAIOSFODNN7EXAMPLE."
    write_jsonl(tmp_path / "shops.jsonl", rows)
    recipe = tiny_recipe()
    document = json.loads(recipe.read_text())
    document["data"] = {
        "template": "plain",
        "demonstrations": {"train": "shops.jsonl", "held_out": 0.0},
    }
    recipe.write_text(json.dumps(document))
    return check(load_recipe(recipe), str(recipe))


def shown(report: Report) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines(report, "there", None))


@needs_extra
def test_records_are_named_and_values_never_shown(tmp_path: Path, tiny_recipe: Make) -> None:
    report = checked(tmp_path, tiny_recipe)
    found: list[Finding] = [one for one in report.findings if one.code in ("personal_data", "secret")]
    assert sorted((one.severity, one.code, Path(one.examples[0]).name) for one in found) == [
        ("warning", "personal_data", "shops.jsonl:2"),
        ("warning", "personal_data", "shops.jsonl:3"),
        ("warning", "secret", "shops.jsonl:3"),
    ]
    assert "1 record holds a payment card's number (the first: 41…11)" in shown(report)
    assert "2 records with some, in 4 records" in shown(report)
    assert report.personal_data is not None
    assert [(one.what, one.first, one.count) for one in report.personal_data.found] == [
        ("card", "41…11", 1),
        ("email", "ja…de", 1),
        ("key", "AK…LE", 1),
    ]
    for text in (shown(report), json.dumps(asdict(report))):
        assert not any(secret in text for secret in ("1111 1111", "jane.doe", "IOSFODNN7"))


def test_where_it_was_not_looked_for_that_is_said(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal, "can_look", lambda: False)
    report = checked(tmp_path, tiny_recipe)
    assert report.personal_data is None
    assert "not looked for: pip install 'align-rlhf[privacy]'" in shown(report)
    assert not [one for one in report.findings if one.code in ("personal_data", "secret")]


@needs_extra
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
def test_worked_sums_hold_no_personal_data() -> None:
    with gzip.open(REAL / "gsm8k/train-first-2000.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 2000
    assert [row for row in rows if personal_data(f"{row['question']}\n{row['answer']}")] == []
