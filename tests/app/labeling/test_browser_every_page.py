"""Every page of a site in use under axe's rules; `test_browser_states` has what is opened in them."""

import pytest

from app.labeling.application import create_site
from app.serving import serving
from tests.app.labeling.acting import log_in
from tests.app.labeling.lived_in import live_in
from tests.app.labeling.looking import faults

pytestmark = [pytest.mark.browser, pytest.mark.slow]
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
    "/admin/screening",
    "/admin/events",
    "/admin/tasks/99",  # a problem page
    "/admin/batches/1/demo",
    "/api/v1/docs",
)
LABELER_PAGES = ("/", "/mine", "/instructions", "/account", "/coverage", "/work")
MILLISECONDS = 400  # for the page's script to fetch what it shows


@pytest.fixture
def lived_in(site, chromium):
    """(page, links) of a site in use."""
    links = live_in(site)
    with serving(create_site(site)) as address:
        context = chromium.new_context(base_url=address)
        yield context.new_page(), links
        context.close()


def look(page, path: str) -> list[str]:
    page.goto(path)
    page.wait_for_timeout(MILLISECONDS)
    return faults(page, f"page{path.replace('/', '-')[:40]}")


def test_pages_of_strangers_and_admins(lived_in):
    """Seen red: column heads without a word, tables that scroll and no key reaches."""
    page, links = lived_in
    found = [fault for path in ("/login", links.invite, links.reset) for fault in look(page, path)]
    log_in(page, "ada")
    for path in (*ADMIN_PAGES, links.imported):
        found += look(page, path)
    page.goto("/admin/programs")
    page.fill("input[name=name]", "weekly")
    page.check("input[name=scopes] >> nth=0")
    page.click("text=Make a token")
    found += faults(page, "token-made")
    page.goto("/admin/people")
    page.click("text=Make an invitation")
    found += faults(page, "invitation-made")
    page.goto("/admin/disputed")
    for summary in page.query_selector_all("main summary"):
        summary.click()
    found += faults(page, "disputed-open")
    page.set_viewport_size({"width": 360, "height": 740})
    # seen red: a word a line
    assert page.evaluate("document.querySelector('td.text').getBoundingClientRect().width") > 200
    assert found == []


def test_pages_of_labelers(lived_in):
    """Seen red: the instructions without a heading."""
    page, _ = lived_in
    log_in(page, "lea")
    assert [fault for path in LABELER_PAGES for fault in look(page, path)] == []
