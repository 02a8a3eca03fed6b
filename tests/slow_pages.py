"""Every page of the browser tests on a slow machine behind a slow line, to find tests (and pages)
that count on an answer being there at once:

    PODIUM_SLOW_PAGES=0.3 pytest -m browser tests/app

gives each request that many seconds more and the page a quarter of the processor.
"""

import os

from playwright.sync_api import Browser, BrowserContext

SLOWER = 4


def slowed(new_page):
    def new_slow_page(self, **options):
        page = new_page(self, **options)
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        session.send("Network.enable")
        session.send(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": 1000 * float(os.environ["PODIUM_SLOW_PAGES"]),
                "downloadThroughput": -1,
                "uploadThroughput": -1,
            },
        )
        return page

    return new_slow_page


BrowserContext.new_page = slowed(BrowserContext.new_page)
Browser.new_page = slowed(Browser.new_page)
