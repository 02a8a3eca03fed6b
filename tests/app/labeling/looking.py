"""A page under axe's rules and in pictures: wide, on a phone, in dark colours, and at 200 % zoom.

Set PODIUM_SCREENSHOTS to a folder to keep the pictures.
"""

import os
from collections.abc import Collection
from pathlib import Path

import pytest

# 1280 x 800 at 200 % zoom has 640 x 400 of the style sheet's pixels.
LOOKS = {
    "1280": (1280, 800, "light"),
    "360": (360, 740, "light"),
    "dark": (1280, 800, "dark"),
    "zoom": (640, 400, "light"),
}
AS_BEFORE = "1280"  # how the page is left
SETTLED = 150  # milliseconds for what moves when the window or the colours change


def faults(page, name: str, allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """What axe finds, and what is wider than its window; the page stays in the state it is in.

    Args:
        name: of the page's state, for the pictures and the report.
        allowed: (rule, part of the element's selector) that somebody else's markup breaks.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = []
    for look, (width, _, _) in LOOKS.items():
        take(page, look)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{name}, {look}: wider than the window")
        keep(page, f"{name}-{look}")
        if look != "zoom":  # which has the rules' answers of a window in between
            found += [f"{name}, {look}: {fault}" for fault in violations(axe, page, allowed)]
    take(page, AS_BEFORE)
    return found


def take(page, look: str) -> None:
    width, height, scheme = LOOKS[look]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(SETTLED)


# A button that fades from grey to red has, half way, the contrast of neither.
WITHOUT_MOTION = """() => document.getAnimations().forEach(
    animation => { try { animation.finish() } catch { animation.cancel() } }
)"""


def violations(axe, page, allowed: Collection[tuple[str, str]]) -> list[str]:
    """What axe finds on the page as it looks when nothing moves."""
    page.evaluate(WITHOUT_MOTION)
    return [
        f"{fault['id']} {node['target']} {node['html'][:160]}"
        for fault in axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        for node in fault["nodes"]
        if not any(fault["id"] == rule and part in str(node["target"]) for rule, part in allowed)
    ]


def keep(page, name: str) -> None:
    if folder := os.environ.get("PODIUM_SCREENSHOTS"):
        page.evaluate("scrollTo(0, 0)")  # what sticks would cover something in the middle
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
