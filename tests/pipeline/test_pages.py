"""Pages: sections in their order, names in backticks as code, colours that can be read in both schemes."""

import re

import pytest

from pipeline import pages
from tests.pipeline.conftest import page_faults

CSS = (pages.TEMPLATES / "page.css").read_text("utf8")
# WCAG 2.2, level AA: 1.4.3 for text, 1.4.11 for what has to be seen in a drawing.
FOR_TEXT, FOR_DRAWINGS = 4.5, 3.0
TEXT = ("ink", "soft", "good", "bad", "neutral")
SERIES = tuple(f"s{number}" for number in range(6))
DRAWN = ("edge", "soft", *SERIES, *(f"v{number}" for number in range(5)))


def palette(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, flags=re.DOTALL)
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light))
    return found if scheme == "light" else found | dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", dark))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_measured_as_the_guidelines_do():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_drawings_stand_out_from_their_ground(scheme):
    colours = palette(scheme)
    for name in TEXT:
        for ground in ("paper", "panel"):
            assert contrast(colours[name], colours[ground]) >= FOR_TEXT, f"{name} on {ground}"
    # A series is named in its own colour.
    for name in SERIES:
        assert contrast(colours[name], colours["paper"]) >= FOR_TEXT, name
    for name in DRAWN:
        assert contrast(colours[name], colours["paper"]) >= FOR_DRAWINGS, name


def test_both_schemes_name_every_colour_and_no_other_is_used():
    light, dark = re.findall(r":root \{(.*?)\}", CSS, flags=re.DOTALL)
    names = [set(re.findall(r"--(\w+):", block)) for block in (light, dark)]
    assert names[0] == names[1]
    rest = CSS.replace(light, "").replace(dark, "")
    assert not re.findall(r"#[0-9a-f]{3,6}\b", rest)
    used = set(re.findall(r"var\(--(\w+)\)", rest)) - {"v"}
    assert used <= names[0]


def test_names_in_backticks_are_code_and_markup_is_text():
    assert pages.code("Set `gate` & <b>") == "Set <code>gate</code> &amp; &lt;b&gt;"
    assert pages.code("one ` alone") == "one ` alone"


def test_sections_without_content_are_left_out():
    found = pages.sections([("data", "Data", {"rows": 1}), ("drift", "Drift", None), ("worst", "Worst", [])])
    assert found == [{"anchor": "data", "title": "Data", "template": "report/data.html.j2"}]
    for path in (pages.TEMPLATES / "report").iterdir():
        assert path.name.endswith(".html.j2")


def test_the_faults_of_a_page_are_found():
    good = '<html lang="en"><head><meta charset="utf-8"><title>t</title></head><body><h1>t</h1><main></main>'
    assert page_faults(good + "</body></html>") == []
    bad = good + '<h3>x</h3><table></table><svg role="img"></svg><a href="#no">n</a><img src="http://x/y">'
    said = " ".join(page_faults(bad + "</body></html>"))
    for part in ("level 3", "no box", "no title", "#no leads", "<img>", "asks for http"):
        assert part in said
