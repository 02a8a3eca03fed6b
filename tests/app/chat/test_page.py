"""The chat page driven in a real headless browser, on tiny models: what a visitor does and sees."""

import re

import pytest
from playwright.sync_api import expect

from tests.app.chat.starting import GRADIO
from tests.app.labeling.looking import faults

pytestmark = pytest.mark.browser

FINISHED = re.compile(r"(ended|cut off at the limit|stopped) · seed \d+")


def say(page, text: str, by_key: bool = False) -> None:
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter") if by_key else page.click("#send")


def lines(page, side: int = 0) -> list[str]:
    """The log's messages and lines about answers, top to bottom."""
    return [
        element.inner_text().strip()
        for element in page.query_selector_all(f"#log-{side} .message-content")
    ]


def wait_for_answers(page, count: int, side: int = 0) -> list[str]:
    """Wait until `count` answers are finished and return the log."""
    captions = page.locator(f"#log-{side} .thought .message-content")
    expect(captions).to_have_count(count)
    expect(captions.nth(count - 1)).to_have_text(FINISHED, timeout=30_000)
    expect(page.locator("#send")).to_be_visible()
    return lines(page, side)


def set_number(page, name: str, value: int) -> None:
    if not page.is_visible(f"#{name} input[type=number]"):
        page.click("#sampling > button")
    page.fill(f"#{name} input[type=number]", str(value))
    page.press(f"#{name} input[type=number]", "Tab")


def test_a_conversation_of_several_turns_with_scores_stays_on_this_machine(page):
    say(page, "Tell me a story about an owl.")
    log = wait_for_answers(page, 1)
    assert log[0] == "Tell me a story about an owl."
    assert re.match(r"PPO-ptx \(ppo\) · reward [+-]\d+\.\d\d · \d+ tokens", log[2])
    say(page, "More!", by_key=True)
    log = wait_for_answers(page, 2)
    assert log[3] == "More!"
    assert page.input_value("#message textarea") == ""
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in page.requested)


def test_text_is_only_ever_text(page, monkeypatch):
    """Markup, scripts and template code of person and model show as they are. Seen red with `shown`
    switched off.
    """
    nasty = "<script>window.taken=1</script> ${window.taken=2} <img src=//example.com/x onerror=window.taken=3> **b** $$x$$"
    monkeypatch.setattr("app.chat.conversation.decode_response", lambda tokenizer, ids: nasty)
    say(page, nasty)
    log = wait_for_answers(page, 1)
    assert log[0] == log[1] == nasty
    assert page.evaluate("window.taken") is None
    assert (
        page.query_selector(
            "#log-0 .message-content img, #log-0 .message-content strong, #log-0 .katex"
        )
        is None
    )
    assert not any("example.com" in url for url in page.requested)


def test_an_answer_is_streamed_and_can_be_stopped(page, slowly):
    set_number(page, "length", 400)
    say(page, "Tell me a very long story.")
    page.wait_for_function(
        "document.querySelectorAll('#log-0 .message-content')[1]?.innerText.length > 5"
    )
    early = lines(page)[1]
    page.wait_for_function(
        f"document.querySelectorAll('#log-0 .message-content')[1].innerText.length > {len(early)}"
    )
    page.click("#stop")
    log = wait_for_answers(page, 1)
    assert "stopped" in log[2] and int(re.search(r"(\d+) tokens", log[2])[1]) < 400
    say(page, "And then?")  # it goes on after a stop
    page.wait_for_selector("#stop:visible")
    page.click("#stop")
    wait_for_answers(page, 2)


def test_the_seed_makes_an_answer_come_again(page):
    set_number(page, "length", 16)
    set_number(page, "seed", 7)
    answers = []
    for _ in range(2):
        say(page, "Tell me a story.")
        answers.append(wait_for_answers(page, 1)[1:])
        page.click("#clear")
        expect(page.locator("#log-0 .message-content")).to_have_count(0)
    assert answers[0] == answers[1] and answers[0][1].endswith("seed 7")


def test_retry_draws_anew_with_the_next_seed(page):
    set_number(page, "length", 16)
    say(page, "Tell me a story.")
    first = wait_for_answers(page, 1)
    page.click("#retry")
    expect(page.locator("#log-0 .thought .message-content").first).to_contain_text("seed 1")
    second = wait_for_answers(page, 1)
    assert second[0] == first[0] and second[1] != first[1] and len(second) == 3


def test_undo_takes_the_last_turn_back_into_the_box(page):
    set_number(page, "length", 16)
    say(page, "One")
    wait_for_answers(page, 1)
    say(page, "Two")
    wait_for_answers(page, 2)
    page.click("#undo")
    expect(page.locator("#log-0 .message-content")).to_have_count(3)
    assert page.input_value("#message textarea") == "Two"


def test_editing_an_earlier_message_answers_it_anew_and_forgets_the_rest(page):
    set_number(page, "length", 16)
    for number, text in enumerate(["a <b> & c", "Second"], start=1):
        say(page, text)
        wait_for_answers(page, number)
    page.locator("#log-0 [aria-label='Edit']").first.click()
    box = page.locator("#log-0 textarea").first
    box.fill(box.input_value().replace("c", "changed"))
    page.locator("#log-0 [aria-label='Submit']").first.click()
    expect(page.locator("#log-0 .message-content")).to_have_count(3)
    assert wait_for_answers(page, 1)[0] == "a <b> & changed"


def test_another_model_takes_over_in_the_same_conversation(page):
    set_number(page, "length", 16)
    say(page, "Hello")
    wait_for_answers(page, 1)
    page.click("#model-0 input")
    page.get_by_role("option", name="base (pretrain)").click()
    say(page, "And you?")
    log = wait_for_answers(page, 2)
    assert log[2].startswith("PPO-ptx") and log[5].startswith("base (pretrain)")


def test_two_models_answer_side_by_side_and_a_vote_is_recorded(page, votes, slowly):
    """Both streams grow together; the vote keeps the better answer as both sides' history."""
    set_number(page, "length", 30)
    page.click("#compare input")
    expect(page.locator("#log-1")).to_be_visible()
    say(page, "Tell me a story.")
    page.wait_for_function(
        "[0, 1].every(s => (document.querySelectorAll(`#log-${s} "
        ".message-content`)[1]?.innerText.length ?? 0) > 2)"
    )
    assert page.is_visible("#stop")  # both began before either was done
    left, right = wait_for_answers(page, 1, 0), wait_for_answers(page, 1, 1)
    assert left[2].startswith("PPO-ptx") and right[2].startswith("SFT") and left[1] != right[1]
    page.click("#ask")
    expect(page.locator(".toast-body").last).to_contain_text("Labelers will rank these two")
    assert [len(text.split()) for text in votes.asked[-1][1]] == [
        len(left[1].split()),
        len(right[1].split()),
    ]
    page.click("text=Right is better")
    expect(page.locator("#votes")).to_be_hidden()
    prompt, _, kept, choice, generators, person = votes.kept[-1]
    assert [message.content for message in prompt] == ["Tell me a story."]
    assert (kept.split(), choice, person) == (right[1].split(), "right", None)
    assert generators == ("PPO-ptx (ppo)", "SFT (sft)")
    say(page, "More")
    wait_for_answers(page, 2, 1)
    # both go on from the same answer, so they can be compared again
    expect(page.locator("#votes")).to_be_visible()


def test_a_thumb_is_recorded_stays_visible_and_can_be_taken_back(page, votes):
    """Of an earlier answer too. Seen red without `feedback_value`."""
    set_number(page, "length", 16)
    for number, text in enumerate(["One", "Two"], start=1):
        say(page, text)
        log = wait_for_answers(page, number)
    page.locator("#log-0 [aria-label='Like']").first.click()
    expect(page.locator(".toast-body").last).to_contain_text("thumb up")
    prompt, text, model, thumb, known = votes.thumbs[-1]
    assert [m.content for m in prompt] == ["One"] and text.split() == log[1].split()
    assert (model, thumb, known) == ("PPO-ptx (ppo)", "up", None)
    say(page, "Three")
    wait_for_answers(page, 3)
    page.locator("#log-0 [aria-label='Liked']").click()
    expect(page.locator(".toast-body").last).to_contain_text("taken back")
    expect(page.locator("#log-0 [aria-label='Like']")).to_have_count(3)
    assert votes.thumbs[-1][3] is None and votes.thumbs[-1][4] == len(votes.thumbs) - 1


def test_empty_and_overlong_messages_are_refused_with_a_reason(page):
    say(page, "   ")
    expect(page.locator(".toast-body")).to_contain_text("Write something first")
    assert lines(page) == []
    say(page, "owl " * 1500)
    expect(page.locator(".toast-body").last).to_contain_text("Please shorten it")
    assert lines(page) == [] and page.input_value("#message textarea").startswith("owl owl")


def test_old_turns_are_left_out_when_the_context_is_full_and_the_page_says_so(page):
    set_number(page, "length", 200)
    for number in range(1, 4):
        say(page, "owl " * 40)
        log = wait_for_answers(page, number)
    assert "oldest messages did not fit" in log[-1]


def test_a_phone_shows_everything_without_sideways_scrolling(page):
    """And axe finds nothing of ours, at any width, with everything open."""
    found = faults(page, "chat-alone", GRADIO)
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#compare input")
    say(page, "Tell me a story.")
    wait_for_answers(page, 1, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("#send", "#retry", "#undo", "#clear", "#model-0", "#model-1"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.click("#sampling > button")
    page.click("#told > button")
    assert found + faults(page, "chat-alone-two", GRADIO) == []


def test_two_visitors_do_not_hear_each_other(page, browser, address):
    set_number(page, "length", 16)
    say(page, "Mine")
    wait_for_answers(page, 1)
    other = browser.new_context().new_page()
    other.goto(address)
    other.wait_for_selector("#message textarea")
    assert lines(other) == []
    other.context.close()


# Each pair of choices in every combination: four pages in place of eight.
@pytest.mark.parametrize(
    ("voting", "compare", "home"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, False)],
)
def test_the_page_answers_whatever_it_is_built_with(
    browser, chat_run, votes, voting, compare, home
):
    """Seen red with a like handler on a log that offers no thumbs: the page never shows an answer."""
    from fastapi import FastAPI
    from gradio import mount_gradio_app

    from app.chat.page import appearance, build
    from app.serving import serving

    page = build(chat_run, compare, votes if voting else None, home=home)
    faults: list[str] = []
    tab = browser.new_context().new_page()
    tab.on("pageerror", lambda error: faults.append(str(error)))
    with serving(mount_gradio_app(FastAPI(), page, path="/", **appearance())) as address:
        tab.goto(address)
        tab.wait_for_selector("#message textarea")
        say(tab, "Tell me a story.")
        for side in range(1 + compare):
            assert wait_for_answers(tab, 1, side)[0] == "Tell me a story."
        expect(tab.locator("#votes")).to_be_visible(visible=voting and compare)
        expect(tab.locator("[aria-label='Like']")).to_have_count((1 + compare) * voting)
        expect(tab.get_by_text("to the labeling site")).to_have_count(int(home))
        tab.context.close()
    assert faults == []
