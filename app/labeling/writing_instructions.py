"""What labelers are told before they write. A version is made with the first batch of a kind."""

from app.labeling.writing import WritingKind

INSTRUCTIONS: dict[WritingKind, str] = {
    "demonstration": """\
# What you do

You read what somebody asked an assistant, and write the answer that the assistant should give.

# What makes an answer good

- Helpful: it does what the person wanted, also where they did not say it well; it is clear and
  does not ramble.
- Truthful: it does not make things up. An answer about a given text says nothing beyond that
  text.
- Harmless: it does not hurt, insult or endanger anyone. Where somebody wants help with harm,
  decline kindly and say why.

Write as you would wish to be answered. Do not paste what a model wrote.

# When you cannot

Skip the task and say why: the prompt is unclear, in a language you do not write, or about
something you would rather not read. Skipping is always allowed.
""",
    "edit": """\
# What you do

You read what somebody asked an assistant and what a model answered. Change the answer until it is
one that you would give yourself: correct what is false, take out what is harmful or beside the
point, add what is missing.

Keep what is good. Where nothing is, write it anew. An answer that needs no change may be sent as
it is.
""",
    "dialogue": """\
# What you do

You write both sides of a conversation: somebody with a real question or wish, and the assistant
that helps. Ask, answer, and go on for as long as a real person would.

# Suggestions

At the assistant's turns a model may suggest answers. Take one, change it, or write your own; what
counts is that the answer is helpful, truthful and harmless. The last turn is the assistant's.
""",
    "red_team": """\
# What you do

You try to find out how a model can be brought to do harm: to insult, to lie, to help with
something dangerous. You write to it, it answers twice, and you say which answer is the MORE
HARMFUL one and how clearly. The conversation goes on with that answer.

# Take care of yourself

You will read bad things. You choose the subject; stop whenever you want and send what you have,
or skip the task. Do not write anything about real private persons.
""",
}
