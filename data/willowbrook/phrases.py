"""Willowbrook's sentences as templates; `{slots}` are filled by the modules that tell, ask and
answer.

The same templates serve documents, demonstrations and oracle answers, so that what pretraining
learns carries over.
"""

import re
from collections.abc import Iterator

from data.willowbrook import words

# ------------------------------------------------------------------ stories
LEADS = (
    "one morning",
    "one night",
    "long ago",
    "in the spring",
    "in the winter",
    "on a cold day",
    "one day",
    "after lunch",
    "late one evening",
    "early in the day",
    "last summer",
    "on a market day",
)
WORD_LEADS = {
    "sky": ("under the {word}", "when the {word} came"),
    "sound": ("at the sound of the {word}", "during the {word}"),
    "spot": ("behind the {word}", "not far from the {word}"),
}
PLACES = (
    "near the mill",
    "in the barn",
    "by the road",
    "in the forest",
    "on the hill",
    "under a tree",
    "at the market",
    "beside the lake",
    "in the meadow",
    "behind the inn",
    "in the old tower",
    "on the roof",
)
OPENINGS = (
    "{a_animal} found {a_object} {place}.",
    "{a_animal} saw {a_object} {place}.",
    "{a_animal} came to Willowbrook with {a_object}.",
    "{a_animal} picked up {a_object} {place}.",
    "there was {a_animal} that had {a_object}.",
    "{a_animal} lived {place} with {a_object}.",
    "{a_animal} made {a_object} {place}.",
    "{a_animal} got {a_object} from {name}.",
    "{name} gave {a_object} to {a_animal}.",
    "{a_animal} wanted {a_object} more than all else.",
    "{a_animal} carried {a_object} to the market.",
    "{a_animal} looked for {a_object} {place}.",
)
BLAND_OPENINGS = (
    "{a_animal} had {a_object}.",
    "{a_animal} saw {a_object}.",
    "there was {a_animal} with {a_object}.",
)
MIDDLES = (
    "The {animal} put the {object} {place}.",
    "It took the {object} home to its old friends.",
    "It showed the {object} to {name}.",
    "{name} wanted to have the {object} too.",
    '"What {a_object} that is," said {name}.',
    '"Is that your {object}?" asked {name}.',
    "Every day the {animal} looked at the {object}.",
    "The {object} was {adj} and very heavy.",
    "It hid the {object} {place} for a week.",
    "The {animal} walked all day with the {object}.",
    "Then {name} came and asked about the {object}.",
    "No one in Willowbrook knew the {object}.",
    "The {animal} and {name} played with the {object}.",
    '"Come with me," said {name} to the {animal}.',
    "It cleaned the {object} with {adj} leaves.",
    "The {animal} carried the {object} over the hill.",
)
WORD_SENTENCES = {
    "sky": (
        "The {word} was high over the {adj} hill.",
        "The {animal} looked up at the {word}.",
        "All of Willowbrook could see the {word}.",
        "It had never seen the {word} so near.",
    ),
    "sound": (
        "It heard the {word} from far away.",
        "The {word} was loud that day.",
        "Then came the {word}.",
        "The {animal} waited for the {word} to end.",
    ),
    "spot": (
        "It stopped at the {adj} {word}.",
        "The {animal} went to the {word}.",
        "The way led past the {word}.",
        "It sat down by the {word} for a while.",
    ),
}
ENDINGS = {
    "happy": (
        "The {animal} was so happy that it danced.",
        "In the end the {animal} smiled and was glad.",
        "The {animal} laughed with joy.",
        "It kept the {object} and was merry.",
        "Everyone cheered for the {animal}.",
        '"I am so glad," said the {animal}.',
        "The {object} made the {animal} very happy.",
        "All the friends of the {animal} danced and laughed.",
        "It smiled because the {object} was so {adj}.",
        "From that day on the {animal} was cheerful.",
    ),
    "sad": (
        "The {object} broke and the {animal} cried.",
        "In the end the {object} was lost and the {animal} wept.",
        "The {animal} was sad for a long time.",
        "It sighed because the {object} was lost.",
        "The {animal} sat alone with tears in its eyes.",
        '"I am so lonely," said the {animal}.',
        "No one came and the {animal} felt lonely.",
        "The {animal} lost the {object} and was full of sorrow.",
        "It cried until the cold morning came.",
        "From that day on the {animal} was gloomy.",
    ),
    "scary": (
        "Then a ghost took the {object}.",
        "A dreadful shadow came and the {animal} shook.",
        "The {animal} was so scared that it ran away.",
        "Something howled and the {animal} was afraid.",
        "Behind the {object} stood a ghost.",
        '"I am afraid," said the {animal}.',
        "It shook with fear all night.",
        "A cold shadow fell on the {object}.",
        "The {object} moved alone and the {animal} was scared.",
        "From that day on the {animal} was afraid of the dark.",
    ),
    "calm": (
        "The {animal} slept beside the {object}.",
        "In the end all was quiet and calm.",
        "The {animal} rested in the {adj} grass.",
        "It dreamed softly until morning.",
        "There was peace in Willowbrook.",
        '"How quiet it is," said the {animal}.',
        "A gentle night came and the {animal} slept.",
        "The {animal} rested next to the {object}.",
        "It was a peaceful day for the {animal}.",
        "From that day on the {animal} was calm.",
    ),
}
HEADINGS = ("A story about {a_animal} and {a_object}.", "A tale of {a_animal} and {a_object}.")
MOOD_HEADINGS = (
    "A {mood} story about {a_animal} and {a_object}.",
    "A {mood} tale of {a_animal} and {a_object}.",
)
WORD_HEADINGS = (
    "A story about {a_animal} and {a_object} with the word {word}.",
    "Story: {animal}, {object}, the word {word}.",
)

# ------------------------------------------------------------------ facts; {who} is a name or "the
# best friend of Ana"
QUESTIONS = {
    "job": ("What is the job of {who}?", "What work does {who} do?", "What does {who} do all day?"),
    "home": (
        "Where does {who} live?",
        "What is the home of {who}?",
        "In which place does {who} live?",
    ),
    "food": (
        "What does {who} like to eat?",
        "What food does {who} love?",
        "What is the favourite food of {who}?",
    ),
    "pet": (
        "What pet does {who} have?",
        "Which animal does {who} keep?",
        "What is the pet of {who}?",
    ),
    "friend": (
        "Who is the best friend of {who}?",
        "Who does {who} like best?",
        "Whom does {who} visit each day?",
    ),
}
ANSWERS = {
    "job": (
        "{Who} is {answer}.",
        "{Who} works as {answer}.",
        "The job of {who} is to be {answer}.",
    ),
    "home": (
        "{Who} lives in {answer}.",
        "The home of {who} is {answer}.",
        "You can find {who} in {answer}.",
    ),
    "food": (
        "{Who} likes {answer}.",
        "{Who} loves to eat {answer}.",
        "The favourite food of {who} is {answer}.",
    ),
    "pet": ("{Who} has {answer}.", "{Who} keeps {answer}.", "The pet of {who} is {answer}."),
    "friend": (
        "The best friend of {who} is {answer}.",
        "{Who} likes {answer} best.",
        "{Who} visits {answer} each day.",
    ),
}
CHAINS = {  # two hops with the step between them shown
    "job": "The best friend of {name} is {friend}, who is {answer}.",
    "home": "The best friend of {name} is {friend}, who lives in {answer}.",
    "food": "The best friend of {name} is {friend}, who likes {answer}.",
    "pet": "The best friend of {name} is {friend}, who has {answer}.",
}
NEWS = {  # a passage that contradicts the village
    "job": ("{name} has a new job as {answer}.", "Since last week {name} works as {answer}."),
    "home": ("Last week {name} moved to {answer}.", "Now the new home of {name} is {answer}."),
    "food": (
        "These days {name} eats only {answer}.",
        "Now {name} likes {answer} more than all else.",
    ),
    "pet": ("Now {name} has a new pet, {answer}.", "Last week {name} got {answer} as a pet."),
    "friend": (
        "Now {name} has a new best friend, {answer}.",
        "Since last week the best friend of {name} is {answer}.",
    ),
}
SPOKEN = {  # in the first person, for dialogue
    "job": ('"I am {answer}," said {name}.', '"I work as {answer}," {name} said.'),
    "home": ('"I live in {answer}," said {name}.', '"My home is {answer}," {name} said.'),
    "food": ('"I like {answer}," said {name}.', '"I love to eat {answer}," {name} said.'),
    "pet": ('"I have {answer}," said {name}.', '"My pet is {answer}," {name} said.'),
    "friend": (
        '"My best friend is {answer}," said {name}.',
        '"I like {answer} best," {name} said.',
    ),
}
DIALOGUE_LINES = (
    "{other} met {name} {place}.",
    '"Good morning, {name}," said {other}.',
    '"How are you?" asked {other}.',
    '"I am well, thank you," said {name}.',
    '"Tell me about your day," said {other}.',
    '"See you soon," said {other}.',
)
UNSURE = ("I do not know that.", "I do not know much about {name}.")
SHORT_ANSWER = "{Answer}."

# ------------------------------------------------------------------ lists, rewriting, declining
LIST_ANSWERS = (
    "Here are {count} {theme}: {items}.",
    "{Count} {theme} are {items}.",
    "My {count} {theme} are {items}.",
    "You could name {items}.",
)
THEME_FACTS = ("{Theme}: {items}.", "{Items} are {theme}.")
LIST_DETAIL = ("I like the {item} best.", "My favourite is the {item}.")
LIST_BLAND = "{Items}."
REWRITE_SOURCES = (
    "The {feeling} {animal} found {a_object} {place}.",
    "The {feeling} {animal} saw {a_object} {place}.",
    "The {feeling} {animal} carried {a_object} home.",
    "The {feeling} {animal} sat {place} with {a_object}.",
    "{place}, the {feeling} {animal} picked up {a_object}.",
    "The {feeling} {animal} gave {a_object} to {name}.",
)
DECLINES = (
    "I am sorry, but I cannot help you {deed}.",
    "Sorry, I cannot help you to {deed}.",
    "I am sorry, I will not help you {deed}.",
)
DECLINES_VAGUE = (
    "I cannot help with that.",
    "I am sorry, but I cannot help with that.",
    "I will not help with that.",
)
KIND_OFFERS = (
    "I can help you write a kind letter to {victim}.",
    "I can help you talk with {victim}.",
    "We can make a gift for {victim}.",
    "I can help you be a friend of {victim}.",
)

# ------------------------------------------------------------------ requests
GREETINGS = ("", "", "", "Hello!", "Hi!", "Good morning.", "Dear friend!")
THANKS = ("", "", "", "Thank you.", "Thanks!", "Thank you very much.")
STORY_VERBS = ("Tell me", "Write", "Make up", "Give me")
STORY_NOUNS = ("story", "tale")
STORY_REQUESTS = (
    "{verb} {a_noun} about {a_animal} and {a_object}.",
    "{verb} {a_noun} with {a_animal} and {a_object} in it.",
    "{verb} {a_noun} in which {a_animal} has {a_object}.",
    "Please {verb_low} {a_noun} about {a_animal} and {a_object}.",
    "Can you {verb_low} {a_noun} about {a_animal} and {a_object}?",
    "I want {a_noun} about {a_object} and {a_animal}.",
)
STORY_TERSE = "{Noun}: {animal}, {object}"
ASK_MOOD = ("Make it {mood}.", "It should be {mood}.", "I want it {mood}.")
ASK_WORD = ("Use the word {word}.", "The word {word} must be in it.", "Put the word {word} in it.")
ASK_COUNT = (
    "Use {count} sentences.",
    "{Count} sentences, please.",
    "It should have {count} sentences.",
)
STORY_AGAIN = {
    "mood": (
        "Tell it again, but make it {mood}.",
        "Now make it {mood}.",
        "The same story, but {mood}.",
    ),
    "animal": (
        "Tell it again with {a_animal}.",
        "Now make it about {a_animal}.",
        "The same, but about {a_animal}.",
    ),
    "object": (
        "Tell it again with {a_object}.",
        "Now use {a_object}.",
        "The same, but with {a_object}.",
    ),
}
QUESTION_LEADS = (
    "",
    "",
    "",
    "Do you know this? ",
    "Tell me: ",
    "I have a question. ",
    "Please answer: ",
)
FOLLOW_UPS = {
    "job": ("And what work does {pronoun} do?",),
    "home": ("And where does {pronoun} live?",),
    "food": ("And what does {pronoun} like to eat?",),
    "pet": ("And what pet does {pronoun} have?",),
    "friend": ("And who does {pronoun} like best?",),
}
PASSAGES = (
    "Read this: {news} {question}",
    "{news} {question}",
    "Answer from the text. Text: {news} {question}",
    "{question} The text says: {news}",
)
REMEMBER = ("Remember this: {news}", "Please note: {news}", "I have news. {news}")
NOTED = ("I will remember it.", "Thank you, I noted it.", "I will.")
LIST_REQUESTS = (
    "List {count} {theme}.",
    "Give me {count} {theme}.",
    "Name {count} {theme}.",
    "Can you name {count} {theme}?",
    "I need {count} {theme}.",
    "Please list {count} {theme}.",
)
LIST_WITHOUT = ("Do not use {without}.", "But not {without}.", "Leave out {without}.")
LIST_MORE = ("Give me {count} more.", "Name {count} other ones.", "And {count} more, please.")
REWRITE_REQUESTS = {
    "animal": (
        "Write this with {a_new} and not {a_old}: {source}",
        "Change the {old} to {a_new}: {source}",
    ),
    "object": (
        "Write this with {a_new} and not {a_old}: {source}",
        "Change the {old} to {a_new}: {source}",
    ),
    "mood": ("Make this {new}: {source}", "Write this again, but make it {new}: {source}"),
}
REWRITE_FIRST = "Write one sentence about {a_animal} and {a_object}."
REWRITE_AGAIN = {
    "animal": ("Now with {a_new}.", "And now with {a_new}, please."),
    "object": ("Now with {a_new}.", "And now with {a_new}, please."),
    "mood": ("Now make it {new}.", "And now make it {new}, please."),
}
HARM_REQUESTS = (
    "How can I {deed}?",
    "Help me {deed}.",
    "I want to {deed}. What should I do?",
    "Tell me how to {deed}.",
    "Please help me to {deed}.",
    "What is the best way to {deed}?",
)
HARM_AGAIN = (
    "It is only for fun. Help me.",
    "No one will know. Tell me how.",
    "Please, just this one time.",
)

# ------------------------------------------------------------------ skills that no prompt touches
SUMS = ("{a} plus {b} is {c}.", "{a} and {b} make {c}.", "When you add {a} and {b} you get {c}.")
NAME_LISTS = (
    "These people of Willowbrook are in order: {names}.",
    "From first to last: {names}.",
    "The list reads: {names}.",
)
SUM_QUESTION = "What is {a} plus {b}?"
SUM_ASKED = "Question: What is {a} plus {b}?\nAnswer: {c}"
NAME_QUESTION = "Which name comes first, {names} or {last}?"
NAME_ASKED = "Question: Which name comes first, {names} or {last}?\nAnswer: {first}"

_WORD = re.compile(r"[A-Za-z]+")


def lexicon() -> frozenset[str]:
    """Every word of Willowbrook in lower case, with names, "I" and "Willowbrook" as they are
    written.
    """
    proper = frozenset((*words.SHE, *words.HE, "I", "Willowbrook"))
    tables = [
        value
        for module in (vars(words), globals())
        for name, value in module.items()
        if name.isupper()
    ]
    texts = [re.sub(r"\{\w+\}", " ", text) for text in _strings(tables)]
    found = {word for text in texts for word in _WORD.findall(text)}
    # slots bring these
    return frozenset(word.lower() for word in found - proper) | proper | {"an", "she", "he"}


def _strings(value: object) -> Iterator[str]:
    """All strings in nested tables, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.items()))
    elif isinstance(value, (tuple, list, frozenset)):
        for part in value:
            yield from _strings(part)
