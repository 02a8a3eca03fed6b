"""The chat page: talk to the checkpoints of a run, one or two at a time.

    podium chat RUN [--compare]

Works without any network: system fonts, no analytics, no sharing. What models and people write is
only ever text: the chat log gets it escaped, and no HTML template ever sees it. Conversations live
on the server, one a browser session; what a browser sends besides its message and settings is not
believed.
"""

import copy
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported

import gradio as gr
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from app.chat.catalog import Catalog
from app.chat.conversation import Conversation, Settings
from app.chat.keeping import Chats, Thumb, Votes
from app.chat.line import Line, LineFull
from app.chat.talk import SIDES, VOTES, Talk
from data.jsonl import read_jsonl
from data.records import Prompt
from podium.errors import PodiumError
from podium.widths import Weights

SUGGESTIONS = 3
THUMBS: dict[bool, Thumb] = {True: "up", False: "down"}
VISITORS_AT_ONCE = 4  # answers drawn at the same time; each is its own decoding loop
EACH_AT_ONCE = 2  # of them, one person's; as many again may wait
SHOWN = 7  # outputs that `Talk` describes: logs, message, Send, Stop, votes, suggestions
LOOK_SECONDS = 0.5  # after which somebody in the line is told their place anew
SAVE_FILE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "podium-chat.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
# An answer of 401 means that the login has ended; Gradio's page says nothing about it.
LOGGED_OUT = """<script>
(() => {
  const ask = window.fetch;
  const say = (shown) => {
    let note = document.getElementById("logged-out");
    if (!note && shown) {
      note = document.createElement("p");
      note.id = "logged-out";
      note.setAttribute("role", "alert");
      const link = document.createElement("a");
      link.href = "/login";
      link.target = "_blank";
      link.textContent = "log in in a new tab";
      note.append("Your login has ended. Nothing is lost: ", link, ", then send your message again here.");
      document.body.append(note);
    }
    if (note) note.hidden = !shown;
  };
  window.fetch = async (...given) => {
    const reply = await ask(...given);
    const address = given[0] instanceof Request ? given[0].url : String(given[0]);
    if (address.includes("/gradio_api/queue/join") || address.includes("/gradio_api/run")) say(reply.status === 401);
    return reply;
  };
})();
</script>"""  # noqa: E501 - one line of a script each
# Gradio leaves a list open that the Tab key came by, over the page; Escape closes one.
TAB_CLOSES_LISTS = """<script>
document.addEventListener("focusout", (event) => setTimeout(() => {
  const list = event.target;
  if (list.matches("input[role=combobox][aria-expanded=true]") && list !== document.activeElement)
    list.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true}));
}, 200));
</script>"""


def build(
    run_dir: str | Path,
    compare: bool = False,
    votes: Votes | None = None,
    *,
    chats: Chats | None = None,
    home: bool = False,
    weights: Weights = "fp32",
) -> gr.Blocks:
    """The page for a run's folder or a single model's.

    Args:
        votes: where votes go; without it none can be given.
        chats: where conversations are kept for people with a login.
        home: the labeling site is at `/` of the same server.
        weights: the width of the models'.

    Raises:
        ParentError: the folder holds no model to talk to.
    """
    folder = Path(run_dir)
    talk = Talk(Catalog(folder, weights), votes, chats)
    line = Line(VISITORS_AT_ONCE, EACH_AT_ONCE)
    choices = [(checkpoint.label, checkpoint.key) for checkpoint in talk.catalog.checkpoints]
    with gr.Blocks(title=f"Podium chat: {folder.resolve().name}", analytics_enabled=False) as page:
        session = gr.State(Conversation())
        gr.Markdown(
            "# Podium chat" + ("  \n[to the labeling site](/)" if home else ""), elem_id="title"
        )
        with gr.Row(elem_id="models"):
            pickers = [
                gr.Dropdown(
                    choices,
                    value=talk.catalog.favourites()[side],
                    label=label,
                    elem_id=f"model-{side}",
                    filterable=False,
                    visible=side == 0 or compare,
                    min_width=130,
                    scale=2,
                )
                for side, label in enumerate(["Model", "Beside it"])
            ]
            both = gr.Checkbox(
                compare, label="Two side by side", elem_id="compare", scale=1, min_width=130
            )
            blind = gr.Checkbox(
                False,
                label="Blind",
                info="sides by lot, names after the vote",
                elem_id="blind",
                scale=1,
                min_width=130,
                visible=votes is not None,
            )
        with gr.Row(elem_id="history", visible=chats is not None):
            earlier = gr.Dropdown(
                [], label="Earlier chats", elem_id="earlier", min_width=200, scale=4
            )
            forget = gr.Button("Erase", size="sm", elem_id="forget", min_width=70, scale=1)
        with gr.Row(elem_id="logs"):
            logs = [
                gr.Chatbot(
                    elem_id=f"log-{side}",
                    visible=side == 0 or compare,
                    height="60vh",
                    min_width=260,
                    show_label=False,
                    # every message is escaped by app.chat.log.shown; nothing turns parts of it into
                    # markup
                    render_markdown=False,
                    sanitize_html=True,
                    latex_delimiters=[],
                    allow_tags=False,
                    buttons=["copy"],
                    editable="user",
                    feedback_options=("Like", "Dislike") if votes is not None else None,
                    placeholder="Say something, or pick a suggestion below.",
                )
                for side in SIDES
            ]
        with gr.Row(elem_id="votes", visible=False) as vote_row:
            ballots = [gr.Button(text, size="sm", min_width=110) for text in VOTES]
            ask = gr.Button("Ask a labeler", size="sm", min_width=110, elem_id="ask")
        place = gr.Markdown("", elem_id="place", visible=False)
        with gr.Row(elem_id="suggestions") as suggestion_row:
            ideas = [gr.Button(text, size="sm", min_width=200) for text in suggestions(folder)]
        with gr.Row(elem_id="say"):
            message = gr.Textbox(
                placeholder="Your message",
                show_label=False,
                lines=1,
                max_lines=6,
                autofocus=True,
                elem_id="message",
                submit_btn=False,
                container=False,
                scale=8,
                min_width=160,
            )
            send = gr.Button("Send", variant="primary", elem_id="send", min_width=70)
            stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=70, visible=False)
        with gr.Row(elem_id="buttons"):
            retry = gr.Button("Retry", elem_id="retry", size="sm", min_width=70)
            undo = gr.Button("Undo", elem_id="undo", size="sm", min_width=70)
            clear = gr.Button("New chat", elem_id="clear", size="sm", min_width=70)
            export = gr.Button("Export", elem_id="export", size="sm", min_width=70)
            exported = gr.Textbox(visible=False)
        with gr.Accordion("System prompt and stop texts", open=False, elem_id="told"), gr.Row():
            system = gr.Textbox(
                label="System prompt",
                info="what the models are told first; fixed by the first answer",
                lines=2,
                elem_id="system",
                min_width=200,
            )
            stops = gr.Textbox(
                label="Stop texts",
                info="one a line, \\n for a line break; an answer ends before them",
                lines=2,
                elem_id="stops",
                min_width=200,
            )
        with gr.Accordion("Sampling", open=False, elem_id="sampling"), gr.Row():
            defaults = Settings()
            knobs = [
                gr.Slider(
                    0,
                    2,
                    defaults.temperature,
                    step=0.05,
                    label="Temperature",
                    info="0 always says the likeliest",
                    elem_id="temperature",
                ),
                gr.Slider(
                    0.05,
                    1,
                    defaults.top_p,
                    step=0.05,
                    label="Top-p",
                    info="share of probability kept",
                ),
                gr.Slider(
                    1,
                    1024,
                    defaults.max_new_tokens,
                    step=1,
                    label="Length",
                    info="tokens at most",
                    elem_id="length",
                ),
                gr.Number(
                    defaults.seed,
                    label="Seed",
                    info="same seed, same answer",
                    precision=0,
                    elem_id="seed",
                ),
            ]

        shown = [*logs, message, send, stop, vote_row, suggestion_row]
        assert len(shown) == SHOWN
        given = [session, *pickers, both, *knobs, blind, system, stops]
        spoken: dict[str, Any] = {
            "outputs": [*shown, place, earlier],
            "concurrency_limit": None,  # `line` says who is answered next
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        quick: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "queue": False,
        }
        # Gradio shows messages to the visitor from queued events only
        heard = quick | {"queue": True}
        for event in (send.click, message.submit):
            event(answering(talk, line, talk.send, 1), [message, *given], **spoken)
        for idea in ideas:
            idea.click(answering(talk, line, talk.send, 1), [idea, *given], **spoken)
        retry.click(answering(talk, line, talk.retry, 0), given, **spoken)
        for log in logs:
            log.edit(_editing(talk, line), given, **spoken)
        stop.click(talk.halt, session, None, **quick)
        undo.click(talk.undo, [session, both], shown, **quick)
        export.click(talk.export, session, exported, **quick).then(
            None, exported, None, js=SAVE_FILE
        )
        clear.click(talk.clear, [session, both], shown, **quick)
        both.change(talk.arrange, [session, both], [*shown, pickers[1]], **quick)
        blind.input(lambda ticked, two: ticked or two, [blind, both], both, **quick)
        for ballot in ballots:
            ballot.click(talk.vote, [session, ballot], [*logs, vote_row], **heard)
        ask.click(talk.ask, session, None, **heard)
        if votes is not None:  # a log without `feedback_options` breaks where it has a like handler
            for side, log in enumerate(logs):
                log.like(_thumb(talk, side), session, None, **heard)
        if chats is not None:
            page.load(_restoring(talk), [session, both], [*shown, earlier, both, blind], **quick)
            earlier.input(_picking(talk), [session, both, earlier], [*shown, both, blind], **quick)
            forget.click(_forgetting(talk), [session, both], [*shown, earlier], **heard)
    return page


def _who(request: gr.Request) -> str | None:
    """The handle of who is logged in."""
    return getattr(request, "username", None)


async def _in_line(
    talk: Talk, line: Line, request: gr.Request, conversation: Conversation, answer: Callable
) -> AsyncIterator[tuple]:
    """An answer when it is this visitor's turn, and before it their place in the line.

    Without a login a visitor is the address they come from. The last update repeats all that must
    be seen: Gradio sends the last one whole and the others as changes, which its page applies to
    updates that still wait to be drawn.
    """
    person = _who(request) or (request.client.host if request.client else "")
    if conversation.busy:
        gr.Info("Still answering; press Stop first.")
        return
    try:
        async with line.ticket(person) as ticket:
            conversation.stop = False
            while (place := line.place(ticket)) and not conversation.stop:
                conversation.busy = True
                said = f"You are number {place} in the line; your answer comes by itself."
                yield (*talk.waiting(), gr.update(value=said, visible=True), gr.skip())
                await line.wait(ticket, LOOK_SECONDS)
            conversation.busy = False
            if conversation.stop:
                yield (*talk.ready(), gr.update(visible=False), gr.skip())
                return
            view = talk.ready()
            async for view in iterate_in_threadpool(answer()):
                # Send comes back with the very last update: a click before it would be ignored.
                sending = gr.update(visible=False), gr.update(visible=True)
                # A copy, for Gradio takes the value out of an update that it sends.
                part = copy.deepcopy(view)
                yield (*part[:3], *sending, *part[5:], gr.update(visible=False), gr.skip())
        # the database may be busy, and the event loop serves everybody
        kept = await run_in_threadpool(_keep, talk, conversation, _who(request))
        yield (*view, gr.update(visible=False), kept)
    except LineFull as problem:
        gr.Warning(problem.message)
    finally:
        conversation.busy = False


def answering(talk: Talk, line: Line, method: Callable, before: int) -> Callable:
    """An event's handler: a method of Talk that answers, put into the line. So many values come
    `before` the conversation.
    """

    async def act(request: gr.Request, *values: Any) -> AsyncIterator[tuple]:
        conversation = values[before]
        async for view in _in_line(talk, line, request, conversation, lambda: method(*values)):
            yield view

    return act


def _editing(talk: Talk, line: Line) -> Callable:
    async def act(request: gr.Request, edited: gr.EditData, *values: Any) -> AsyncIterator[tuple]:
        answer = partial(talk.edit, edited, *values)
        async for view in _in_line(talk, line, request, values[0], answer):
            yield view

    return act


def _keep(talk: Talk, conversation: Conversation, person: str | None) -> Any:
    talk.store(conversation, person)
    return _choices(talk, conversation, person)


def _choices(talk: Talk, conversation: Conversation, person: str | None) -> Any:
    """What the list of earlier chats shows."""
    if talk.chats is None or person is None:
        return gr.skip()
    titles = [(title or "(no words)", number) for number, title in talk.chats.titles(person)]
    return gr.update(choices=titles, value=conversation.stored)


def _restoring(talk: Talk) -> Callable:
    """What a visit begins with: the newest conversation of this login."""

    def act(request: gr.Request, conversation: Conversation, both: bool) -> tuple:
        begun = bool(conversation.turns)  # the visitor was faster
        view = () if begun else talk.restore(conversation, both, _who(request))
        earlier = _choices(talk, conversation, _who(request))
        if begun or not conversation.turns:
            # Nothing to restore: what the visitor ticked while this was asked for stands.
            return (*[gr.skip()] * SHOWN, earlier, gr.skip(), gr.skip())
        two = both or any(turn.answers[1] for turn in conversation.turns)
        ticks = gr.update(value=two), gr.update(value=conversation.hides)
        return (*view, earlier, *ticks)

    return act


def _picking(talk: Talk) -> Callable:
    def act(request: gr.Request, conversation: Conversation, both: bool, chat: Any) -> tuple:
        # Who comes by the list with the Tab key has chosen nothing, or what is shown already.
        if not isinstance(chat, int) or chat == conversation.stored:
            return (gr.skip(),) * (SHOWN + 2)
        view = talk.restore(conversation, both, _who(request), chat)
        two = any(turn.answers[1] for turn in conversation.turns)
        return (*view, gr.update(value=two), gr.update(value=conversation.hides))

    return act


def _forgetting(talk: Talk) -> Callable:
    """Erase the conversation that is shown."""

    def act(request: gr.Request, conversation: Conversation, both: bool) -> tuple:
        if talk.chats is not None and conversation.stored is not None:
            talk.chats.remove(_who(request), conversation.stored)
            gr.Info("This chat is erased.")
        view = talk.clear(conversation, both)
        return (*view, _choices(talk, conversation, _who(request)))

    return act


def _thumb(talk: Talk, side: int) -> Callable:
    """What a thumb on one side's log does."""

    def react(clicked: gr.LikeData, conversation: Conversation, request: gr.Request) -> None:
        place = clicked.index if isinstance(clicked.index, int) else clicked.index[0]
        # a second click takes it back
        thumb = THUMBS.get(clicked.liked) if isinstance(clicked.liked, bool) else None
        talk.react(conversation, side, place, thumb, getattr(request, "username", None))

    return react


def suggestions(folder: Path) -> list[str]:
    """A few held-out prompts of the run's world, of different kinds; a small model only knows its
    own world.
    """
    found: dict[str | None, str] = {}
    with suppress(PodiumError):
        for prompt in read_jsonl(folder / "world" / "final" / "prompts.test.jsonl", Prompt):
            if len(prompt.messages) == 1:
                found.setdefault(prompt.use_case, prompt.messages[0].content)
    return list(found.values())[:SUGGESTIONS]


def appearance() -> dict[str, Any]:
    """What Gradio wants beside the page in `gr.mount_gradio_app`: system fonts and our
    style sheet.
    """
    sans = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = gr.themes.Default(primary_hue="blue", font=sans, font_mono=mono).set(
        # Gradio's own are too pale to be read by everybody (WCAG 1.4.3).
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        # An empty box must be seen to be one (WCAG 1.4.11); in dark colours it was not.
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )
    return {
        "theme": theme,
        "css_paths": Path(__file__).with_name("style.css"),
        "head": LOGGED_OUT + TAB_CLOSES_LISTS,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
    }
