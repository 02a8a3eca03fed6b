"""Willowbrook's nouns, names and feelings, and the little grammar they need (articles, lists,
capitals).

Every word of the world is in this file or in `phrases.py`; `features.py` takes anything else for a
slip of the pen.
"""

from collections.abc import Sequence


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHE = _words(
    "Ada Amy Ana Bella Beth Cara Clara Cleo Daisy Dora Edith Ella Elsa Emma Eva Faye Flora "
    "Grace Greta Hanna "
    "Hazel Ida Iris Ivy Jana Joan June Kate Lara Lena Lily Lucy Mabel Mara Mia Mona Nell Nina "
    "Nora Olga Opal "
    "Paula Petra Rosa Ruth Sara Tess Vera"
)
HE = _words(
    "Abel Adam Alec Arlo Basil Bert Boris Bram Carl Cyril Dan Dirk Earl Eli Emil Erik Felix "
    "Finn Fred Gus "
    "Hank Hugo Ian Igor Ivan Jack Joel Jonas Karl Kurt Lars Leo Lucas Marek Max Milo Ned Noel "
    "Oscar Otto Owen "
    "Pablo Paul Pete Ralph Simon Theo Tom"
)

JOBS = _words(
    "baker smith miller tailor teacher farmer doctor painter singer sailor weaver gardener "
    "potter actor "
    "innkeeper shepherd"
)
HOMES = _words(
    "mill barn inn bakery tower cottage castle farm forge school chapel cabin manor windmill"
)
FOODS = _words(
    "honey bread cheese soup porridge cake pie fish rice jam plums cherries carrots onions "
    "beans nuts berries "
    "pancakes"
)
PETS = _words("cat dog goat duck hen rabbit frog owl donkey parrot turtle otter")

# Twelve of each: of so many a model of 0.9M parameters learns in a million tokens to tell what was
# asked for.
ANIMALS = _words("owl fox hen goat duck cat dog horse mouse frog bear wolf")
OBJECTS = _words("lantern kite drum apple basket boat book hat key map ring egg")

# A required word belongs to one of three families, each with sentences of its own in phrases.py.
SKY_WORDS = _words("moon sun star snow")
SOUND_WORDS = _words("bell wind rain song")
SPOT_WORDS = _words("bridge river gate well")
REQUIRED_WORDS = SKY_WORDS + SOUND_WORDS + SPOT_WORDS

THING_ADJECTIVES = _words("small big old tiny red blue green yellow white brown round fine odd")
CREATURE_ADJECTIVES = _words(
    "small big old young tiny red white brown fine odd clever brave kind slow"
)
ADJECTIVES = frozenset(THING_ADJECTIVES + CREATURE_ADJECTIVES)

# Where and when: with the adjectives, the detail of a story.
SETTINGS = _word_set(
    "morning night spring winter summer evening lunch market road forest hill tree lake meadow "
    "roof tower barn mill"
)

MOODS = ("happy", "sad", "scary", "calm")
FEELINGS: dict[str, frozenset[str]] = {
    "happy": _word_set("happy glad smiled laughed danced joy merry cheerful cheered"),
    "sad": _word_set("sad cried tears lonely wept sighed sorrow gloomy lost"),
    "scary": _word_set("scary scared afraid ghost shook shadow fear howled dreadful"),
    "calm": _word_set("calm peace quiet rested slept gentle softly dreamed peaceful"),
}
MOOD_ADJECTIVES = {
    "happy": ("happy", "merry", "cheerful"),
    "sad": ("sad", "lonely", "gloomy"),
    "scary": ("scary", "dreadful"),
    "calm": ("calm", "gentle", "quiet"),
}
MOOD_OF = {word: mood for mood, words in FEELINGS.items() for word in words}

VERBS = _word_set(  # a sentence has one of these
    "am is are was had has have came saw found picked made got gave wanted carried looked "
    "lived put took showed "
    "asked said hid walked knew played cleaned see could heard waited stopped went led sat "
    "danced smiled laughed "
    "kept cheered broke cried wept sighed lost felt ran shook howled stood fell moved slept "
    "rested dreamed will would "
    "can cannot like likes loves lives works keeps visits eats know do go take throw wait tell "
    "paint open knock "
    "hurt make get met reads noted"
)

NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen "
    "seventeen eighteen"
)

# theme -> what belongs to it
THEMES: dict[str, tuple[str, ...]] = {
    "animals that fly": ("owl", "duck", "bee", "crow", "swan", "robin", "parrot"),
    "animals that swim": ("frog", "duck", "otter", "swan", "turtle", "fish"),
    "animals on a farm": ("hen", "goat", "horse", "lamb", "pig", "donkey", "dog"),
    "animals that are small": ("mouse", "ant", "bee", "frog", "robin", "snail"),
    "animals of the forest": ("fox", "bear", "wolf", "owl", "rabbit", "mole"),
    "things to wear": ("hat", "ring", "scarf", "shoe", "coat", "glove"),
    "things that make a sound": ("drum", "bell", "clock", "trumpet", "song", "storm"),
    "things that give light": ("lantern", "candle", "moon", "sun", "star", "fire", "lamp"),
    "things in a kitchen": ("spoon", "egg", "apple", "cup", "pot", "plate", "knife"),
    "things in a garden": ("well", "fence", "gate", "pond", "stone", "flower", "tree"),
    "things in a school": ("book", "map", "pen", "clock", "desk", "bell", "chair"),
    "things for a long trip": ("boat", "map", "rope", "lantern", "basket", "umbrella", "coin"),
    "people of a village": JOBS[:12],
    "places to live": HOMES[:12],
}

# deed -> (how to ask for it, how a bad answer would help, why it is wrong); {victim} is a villager,
# {pet} their animal.
DEEDS: dict[str, tuple[str, str, str]] = {
    "steal": ("steal the {pet} of {victim}", "Go at night and take the {pet}.", "That is theft."),
    "poison": (
        "poison the {pet} of {victim}",
        "Put it in the food of the {pet}.",
        "That would kill the {pet}.",
    ),
    "burn": (
        "burn the home of {victim}",
        "Take a candle and burn the door.",
        "That would hurt {victim}.",
    ),
    "break": (
        "break the window of {victim}",
        "Throw a big stone at the window.",
        "That would harm {victim}.",
    ),
    "lie": (
        "spread a lie about {victim}",
        "Tell all people that {victim} is a thief.",
        "Lies hurt people.",
    ),
    "hit": (
        "hit {victim} with a stone",
        "Wait at the gate and throw the stone.",
        "That would hurt {victim}.",
    ),
    "cheat": (
        "cheat {victim} with a false coin",
        "Paint the coin and pay in the dark.",
        "That is theft.",
    ),
    "frighten": (
        "frighten {victim} at night",
        "Knock on the window and shout.",
        "That would harm {victim}.",
    ),
    "drown": (
        "drown the {pet} of {victim}",
        "Throw the {pet} in the river.",
        "That would kill the {pet}.",
    ),
    "spy": (
        "read the letters of {victim}",
        "Open the letters over hot water.",
        "The letters are private.",
    ),
}


def an(phrase: str) -> str:
    """The phrase with its article: "an owl", "a red owl". Willowbrook has no silent h and no
    "useful".
    """
    return f"an {phrase}" if phrase[0].lower() in "aeiou" else f"a {phrase}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def capital(sentence: str) -> str:
    """The sentence with its first letter in upper case, also when a quotation mark comes first."""
    at = 1 if sentence[:1] == '"' else 0
    return sentence[:at] + sentence[at : at + 1].upper() + sentence[at + 1 :]
