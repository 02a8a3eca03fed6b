"""Every page of the site under axe's rules: wide, on a phone, and in dark colours."""

import pytest

from app.labeling.application import create_site
from app.serving import serving
from tests.app.labeling.acting import log_in
from tests.app.labeling.lived_in import live_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LOOKS = ((1280, 800, "light"), (360, 740, "light"), (1280, 800, "dark"))
ADMIN_PAGES = (
    "/admin",
    "/admin/records",
    "/admin/tasks/1",
    "/admin/labelers",
    "/admin/disputed",
    "/admin/results",
    "/admin/exports",
    "/admin/instructions",
    "/admin/people",
    "/admin/programs",
    "/admin/writing",
    "/admin/events",
    "/admin/tasks/99",  # a problem page
    "/admin/batches/1/demo",
    "/api/v1/docs",
)
LABELER_PAGES = ("/", "/mine", "/instructions", "/account", "/work")
MILLISECONDS = 400  # for the page's script to fetch what it shows


@pytest.fixture
def lived_in(site, chromium):
    """(page, links) of a site in use."""
    links = live_in(site)
    with serving(create_site(site)) as address:
        # axe is put into the page as a script, which the site's policy would refuse
        context = chromium.new_context(base_url=address, bypass_csp=True)
        yield context.new_page(), links
        context.close()


def faults(page, path: str) -> list[str]:
    """What axe finds, and what is wider than its window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.goto(path)
    page.wait_for_timeout(MILLISECONDS)
    found = []
    for width, height, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        found += [
            f"{path}, {width} {scheme}: {fault['id']} {node['target']} {node['html'][:120]}"
            for fault in axe.run(page).response["violations"]
            for node in fault["nodes"]
        ]
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{path}, {width}: wider than the window")
    return found


def test_pages_of_strangers_and_admins(lived_in):
    """Seen red: column heads without a word, tables that scroll and no key reaches."""
    page, links = lived_in
    found = [
        fault for path in ("/login", links.invite, links.reset) for fault in faults(page, path)
    ]
    log_in(page, "ada")
    for path in (*ADMIN_PAGES, links.imported):
        found += faults(page, path)
    assert found == []


def test_pages_of_labelers(lived_in):
    """Seen red: the instructions without a heading."""
    page, _ = lived_in
    log_in(page, "lea")
    assert [fault for path in LABELER_PAGES for fault in faults(page, path)] == []
