"""`podium chat` and `podium label serve --run`, started as people start them, in a real browser.

Nothing here passes anything that the command does not pass itself.
"""

import json
import re
import socket

import pytest
from playwright.sync_api import expect

from app.labeling.site import Settings, open_site
from podium.models import save_model
from tests.app.chat.starting import FINISHED, PATIENCE, refused, started
from tests.app.labeling.making import PASSWORD, add_person
from tests.evals.miniature import CONTEXT, make_reward_model

pytestmark = pytest.mark.browser
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def served(chat_run, tmp_path_factory):
    """`podium chat RUN --port 0`, as it is."""
    with started(tmp_path_factory.mktemp("served"), "chat", chat_run, "--port", 0) as running:
        yield running


@pytest.fixture
def visit(browser):
    """`visit(address)` opens a page; script errors and refusals of the page's policy fail the
    test.
    """
    contexts, faults = [], []

    def opened(address: str, size: dict = DESK, scheme: str = "light"):
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda line: faults.append(line.text) if "Content Security" in line.text else None,
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def ask(page, text: str) -> None:
    page.fill("#message textarea", text)
    page.click("#send")


def answered(page, count: int, side: int = 0) -> list[str]:
    """Wait for that many finished answers; the log's messages, and a line about each answer."""
    captions = page.locator(f"#log-{side} .thought .message-content")
    expect(captions).to_have_count(count, timeout=PATIENCE)
    expect(captions.last).to_have_text(FINISHED, timeout=PATIENCE)
    expect(page.locator("#send")).to_be_visible(timeout=PATIENCE)
    return page.locator(f"#log-{side} .message-content").all_inner_texts()


def says(page, text: str) -> None:
    expect(page.locator(".toast-body").last).to_contain_text(text, timeout=PATIENCE)
    # Send is back with the last update, which puts what was typed into its box once more.
    expect(page.locator("#send")).to_be_visible(timeout=PATIENCE)


def in_view(page, selector: str) -> bool:
    """Whether all of an element is on the screen, with nothing over it."""
    return page.locator(selector).evaluate(
        """element => {
            const box = element.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return box.x >= 0 && box.y >= 0 && box.right <= innerWidth && box.bottom <= innerHeight
                && element.contains(top);
        }"""
    )


def test_two_turns_stay_in_the_conversation(served, visit):
    """Seen red with a like handler on the log: no answer is ever shown."""
    page = visit(served.addresses["chat"])
    ask(page, "Tell me a story about an owl.")
    first = answered(page, 1)
    assert first[0] == "Tell me a story about an owl." and "reward" in first[2]
    ask(page, "And then?")
    log = answered(page, 2)
    assert log[:3] == first and log[3] == "And then?" and len(log) == 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_always_shows_where_to_write(served, visit, scheme):
    """Before the first answer, after long ones, and with two logs. Seen red without `flex: none` on
    the logs: the page grows with the conversation. Seen red without `position: sticky`: two logs
    push the box off the screen.
    """
    page = visit(served.addresses["chat"], PHONE, scheme)
    page.wait_for_selector("#message textarea", timeout=PATIENCE)
    expect(page.locator("#suggestions button")).to_have_count(3)
    assert in_view(page, "#message textarea") and in_view(page, "#send")
    for number in (1, 2):
        ask(page, "Tell me a story.")
        answered(page, number)
        assert in_view(page, "#message textarea") and in_view(page, "#send")
    assert page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]
    page.click("#compare input")
    ask(page, "Another one.")
    answered(page, 1, side=1)
    page.evaluate("scrollTo(0, 0)")
    assert in_view(page, "#message textarea") and in_view(page, "#send")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_what_cannot_be_answered_is_refused_with_a_sentence_and_nothing_is_lost(served, visit):
    """Seen red with the last turn removed whenever an answer is refused: a retry lost the answer."""
    page = visit(served.addresses["chat"])
    ask(page, "   ")
    says(page, "Write something first")
    ask(page, "One")
    log = answered(page, 1)
    long = "owl " * CONTEXT
    ask(page, long)
    says(page, "Please shorten it")
    assert page.input_value("#message textarea") == long
    endless = "owl " * 6000
    ask(page, endless)
    says(page, "24,000 characters")
    assert page.input_value("#message textarea") == endless
    page.click("#sampling > button")
    page.fill("#seed input", str(2**64))
    page.press("#seed input", "Tab")
    page.click("#retry")
    says(page, "The seed is a whole number from 0 to")
    assert answered(page, 1) == log
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    ask(page, "Two")
    assert answered(page, 2)[-1].endswith("seed 7")


@pytest.mark.parametrize("place", ["sft", "sft/final"])
def test_one_model_is_talked_to_like_a_run_of_one(chat_run, tmp_path, visit, place):
    """A stage's folder and a model's. Seen red with the former: "no run"."""
    with started(tmp_path, "chat", chat_run / place, "--port", 0) as running:
        page = visit(running.addresses["chat"])
        ask(page, "Hello")
        assert answered(page, 1)[0] == "Hello"


def test_two_are_compared_without_a_vote_and_ctrl_c_ends_it_all(chat_run, tmp_path, visit):
    """Nobody keeps votes here, so none are asked for. The interrupt comes while a browser looks and
    an answer is drawn, and ends with its exit code. Seen red with uvicorn's own patience: it waits
    for the browser to leave.
    """
    with started(tmp_path, "chat", chat_run, "--compare", "--port", 0) as running:
        page = visit(running.addresses["chat"])
        ask(page, "Hello")
        left, right = answered(page, 1, side=0), answered(page, 1, side=1)
        assert left[0] == right[0] and left[1] != right[1]
        assert left[2].startswith("PPO-ptx") and right[2].startswith("SFT")
        expect(page.locator("#votes")).to_be_hidden()
        page.click("#sampling > button")
        page.fill("#length input[type=number]", "400")
        page.press("#length input[type=number]", "Tab")
        ask(page, "Hello")
        page.wait_for_selector("#stop:visible")
        assert running.interrupt() == 130
        said = running.complaints.read_text()
        assert said.endswith("stopped\n") and "Traceback" not in said, said


def test_a_taken_port_is_named_with_a_way_out(served, chat_run, tmp_path):
    port = served.addresses["chat"].rstrip("/").rpartition(":")[2]
    said = refused(tmp_path, "chat", chat_run, "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in said and "fix: take another --port" in said


def test_a_folder_with_nothing_to_talk_to_is_named_with_a_way_out(chat_run, tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    assert "fix: give its folder, or one of the runs" in refused(tmp_path, "chat", "empty")
    assert "fix: give its folder, or one of the runs" in refused(tmp_path, "chat", "nowhere")
    save_model(make_reward_model(tokenizer), tokenizer, tmp_path / "reward")
    assert "does not answer" in refused(tmp_path, "chat", "reward")
    (tmp_path / "reward" / "config.json").write_text("{")
    assert "config.json: is no JSON" in refused(tmp_path, "chat", "reward")


def test_other_machines_are_let_in_only_when_that_is_said(chat_run, tmp_path):
    """Seen red before: anyone in the network could talk."""
    said = refused(tmp_path, "chat", chat_run, "--host", "0.0.0.0", "--port", 0)
    assert "no login" in said and "--open-to-everyone" in said
    arguments = ("--host", "0.0.0.0", "--port", 0, "--open-to-everyone")
    with started(tmp_path, "chat", chat_run, *arguments) as running:
        port = running.addresses["chat"].rstrip("/").rpartition(":")[2]
        address = f"http://{socket.gethostbyname('localhost')}:{port}"
        assert _status(address, {"Host": "podium.example"}) == 200
        assert _status(address, {"Origin": "https://evil.example"}, "POST") == 403


def test_other_sites_in_the_visitors_browser_are_kept_out(served):
    """By the host's name and by the origin. Seen red without the middleware: any name is answered."""
    address = served.addresses["chat"]
    assert _status(address) == 200
    assert _status(address, {"Host": "evil.example"}) == 400
    assert _status(address, {"Origin": "https://evil.example"}, "POST") == 403


def test_the_labeling_site_has_the_chat_behind_its_login(chat_run, tmp_path, visit):
    """`/chat` without a login leads to it, and from there back to the chat. Seen red before: a line
    of JSON, and then the labeling site's first page.
    """
    site = open_site(Settings(folder=tmp_path / "labeling"))
    add_person(site, "lea")
    site.database.close()
    with started(tmp_path, "label", "serve", "--run", chat_run, "--port", 0) as running:
        page = visit(running.addresses["chat"])
        expect(page).to_have_url(re.compile(r"/login\?next=/chat/$"))
        page.fill("input[name=handle]", "lea")
        page.fill("input[name=password]", PASSWORD)
        page.click("main button")
        expect(page).to_have_url(re.compile("/chat/$"))
        for number, text in enumerate(["Hello", "And then?"], start=1):
            ask(page, text)
            assert answered(page, number)[-3] == text
            assert answered(page, number, side=1)[-3] == text
            page.click("text=Left is better")
            expect(page.locator("#votes")).to_be_hidden(timeout=PATIENCE)
        assert running.interrupt() == 130


def _status(address: str, headers: dict[str, str] | None = None, method: str = "GET") -> int:
    import httpx

    path = "/gradio_api/queue/join" if method == "POST" else "/"
    body = {"content": json.dumps({})} if method == "POST" else {}
    return httpx.request(method, address.rstrip("/") + path, headers=headers, **body).status_code
