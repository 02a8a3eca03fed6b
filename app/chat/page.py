"""The chat page: talk to the checkpoints of a run, one or two at a time.

    podium chat RUN [--compare]

Works without any network: system fonts, no analytics, no sharing. What models and people write is
only ever text: the chat log gets it escaped, and no HTML template ever sees it. Conversations live
on the server, one a browser session; what a browser sends besides its message and settings is not
believed.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported

import gradio as gr

from app.chat.catalog import Catalog
from app.chat.conversation import Conversation, Settings
from app.chat.talk import SIDES, VOTES, Talk, Thumb, Votes
from data.jsonl import read_jsonl
from data.records import Prompt
from podium.errors import PodiumError

SUGGESTIONS = 3
THUMBS: dict[bool, Thumb] = {True: "up", False: "down"}
VISITORS_AT_ONCE = 4  # answers drawn at the same time; each is its own decoding loop


def build(
    run_dir: str | Path, compare: bool = False, votes: Votes | None = None, home: bool = False
) -> gr.Blocks:
    """The page for a run's folder or a single model's; votes can be given when `votes` says where
    they go.

    `home`: the labeling site is at `/` of the same server.

    Raises:
        ParentError: the folder holds no model to talk to.
    """
    folder = Path(run_dir)
    talk = Talk(Catalog(folder), votes)
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
        given = [session, *pickers, both, *knobs]
        spoken: dict[str, Any] = {
            "outputs": shown,
            "concurrency_limit": VISITORS_AT_ONCE,
            "concurrency_id": "talk",
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
            event(talk.send, [message, *given], **spoken)
        for idea in ideas:
            idea.click(talk.send, [idea, *given], **spoken)
        retry.click(talk.retry, given, **spoken)
        for log in logs:
            log.edit(talk.edit, given, **spoken)
        stop.click(talk.halt, session, None, **quick)
        undo.click(talk.undo, [session, both], shown, **quick)
        clear.click(talk.clear, [session, both], shown, **quick)
        both.change(talk.arrange, [session, both], [*shown, pickers[1]], **quick)
        for ballot in ballots:
            ballot.click(talk.vote, [session, ballot], vote_row, **heard)
        ask.click(talk.ask, session, None, **heard)
        if votes is not None:  # a log without `feedback_options` breaks where it has a like handler
            for side, log in enumerate(logs):
                log.like(_thumb(talk, side), session, None, **heard)
    return page


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
    return {
        "theme": gr.themes.Default(primary_hue="blue", font=sans, font_mono=mono),
        "css_paths": Path(__file__).with_name("style.css"),
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
    }
