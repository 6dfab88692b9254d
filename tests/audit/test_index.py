"""The page that lists audits: sorted by what needs a look, escaped, and asking for nothing."""

import json
import re

from medrestore_monai.audit.index import Listed, read_listed, render_index


def report(light, largest=1.0, reasons=("because",)):
    return {
        "verdict": {"light": light, "reasons": list(reasons)},
        "scope": {"state": "in"},
        "noise": [{"name": "noise SD", "before": 20.0, "after": 5.0}],
        "faithfulness": {"count": 3, "figures": [{"name": "largest change", "before": None, "after": largest}]},
    }


def test_what_needs_a_look_comes_first():
    listed = [
        Listed("green", "green", report=report("green", 9)),
        Listed("yellow", "y", report=report("yellow", 7)),
        Listed("worse", "w", report=report("yellow", 8)),
        Listed("none", "n"),
        Listed("red", "r", report=report("red")),
        Listed("bad", reason="slices are missing"),
    ]
    page = render_index(listed)
    names = re.findall(r'<td class="long">(?:<a [^>]*>)?([^<]*)<', page)
    assert names == ["bad", "red", "worse", "yellow", "none", "green"]
    assert "1 failed, 1 red, 2 yellow, 1 no report, 1 green" in " ".join(page.split())
    assert "<td>in</td><td>8.0</td><td>3</td>" in page
    assert "0.25" in page


def test_names_are_escaped_and_links_are_quoted(tmp_path):
    name = "a#b/<b>M\udcfcller"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "audit.json").write_text(json.dumps(report("red", reasons=["a", "b", "c", "<i>"])))
    one = read_listed(tmp_path, name, "x")
    page = render_index([one, Listed(name, name, report=report("green"))])
    page.encode()
    assert "<b>" not in page
    assert 'href="x/audit.html"' in page
    assert 'href="a%23b/%3Cb%3EM%FCller/audit.html"' in page
    assert "and 1 more" in page
    assert "default-src 'none'" in page
    assert "://" not in page
