"""A conversation as the chat component shows it: messages as plain text, and a line about each
answer.
"""

import re

from app.chat.conversation import Answer, Conversation


def log_of(conversation: Conversation, side: int) -> list[dict[str, str]]:
    """One side's log for the chat component: each answer is followed by a line about it, which
    names nobody while the conversation is blind.
    """
    hidden = ("Model on the left", "Model on the right")[side] if conversation.hides else None
    log = []
    for turn in conversation.turns:
        log.append({"role": "user", "content": shown(turn.user)})
        answer = turn.answers[side]
        if answer is not None:
            log.append({"role": "assistant", "content": shown(answer.text)})
            log.append({"role": "assistant", "content": shown(about(answer, hidden))})
    return log


def thumbs(conversation: Conversation, side: int) -> list[str | None]:
    """The log's thumbs as Gradio counts them: one for an answer and the line about it, which it
    groups.
    """
    names = {"up": "Like", "down": "Dislike", None: None}
    answers = [answer for turn in conversation.turns if (answer := turn.answers[side]) is not None]
    return [names[answer.thumb] for answer in answers]


def shown(text: str) -> str:
    """Text in a form that the chat component shows as it is.

    Its "no Markdown" mode still reads HTML (cleaned of scripts, but with images that would be
    fetched).
    """
    return re.sub(r"&(?=[#\w])", "&amp;", text).replace("<", "&lt;")


def typed(text: str) -> str:
    """The inverse of `shown`, for what the edit box gives back."""
    return re.sub(r"&amp;(?=[#\w])", "&", text.replace("&lt;", "<"))


def about(answer: Answer, hidden: str | None = None) -> str:
    """The line under an answer: who said it, its reward, its length, how it ended, and what was
    left out. `hidden` stands in for the model's name, and hides the reward.
    """
    parts = [hidden or answer.model]
    if answer.score is not None and hidden is None:
        parts.append(f"reward {answer.score:+.2f}")
    parts.append(
        f"{answer.tokens} token{'s' * (answer.tokens != 1)}"
        if answer.tokens or answer.ending
        else "thinking"
    )
    if answer.ending:
        parts += [
            {"cut off": "cut off at the limit"}.get(answer.ending, answer.ending),
            f"seed {answer.seed}",
        ]
    if answer.dropped:
        parts.append(f"the {answer.dropped} oldest messages did not fit and were left out")
    return " · ".join(parts)


def turn_at(
    conversation: Conversation, side: int, place: int, answered: bool = False
) -> int | None:
    """Which turn the log's message number `place` belongs to, if it is the person's (`answered`:
    the model's).
    """
    position = 0
    for number, turn in enumerate(conversation.turns):
        length = 1 if turn.answers[side] is None else 3  # an answer is followed by a line about it
        if (position < place < position + length) if answered else position == place:
            return number
        position += length
    return None
