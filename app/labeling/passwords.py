"""Which passwords and handles an account may have.

A password is refused when a guesser would try it early: one of the common ones, a common word with
digits behind it, a run along the keyboard or the alphabet, few different characters, or the
person's own handle. `COMMON` is our own list of what leaked password lists agree on, at the
lengths that the site's minimum leaves.
"""

import unicodedata

from app.labeling.problems import Problem

MIN_PASSWORD = 10
MAX_PASSWORD = 200
MIN_DIFFERENT = 5  # characters; "aaaaabbbbb" has two
# Words that a password is not made of alone, however they are written or what digits follow.
WORDS = """
    password passwort passw0rd contrasena motdepasse wachtwoord senha parola haslo letmein
    welcome willkommen bienvenue changeme changeit default secret topsecret private admin
    administrator root superuser user username guest test testing tester login logon access
    master manager system server computer internet hello helloworld iloveyou ilovejesus loveyou
    sweetheart sunshine princess prinzessin butterfly chocolate strawberry football baseball
    basketball softball volleyball soccer fussball hockey superman batman spiderman starwars
    pokemon minecraft fortnite dragon monster shadow ninja samurai warrior liverpool chelsea
    arsenal barcelona realmadrid juventus manchester newyork london paris berlin america canada
    australia germany france michael jennifer jessica ashley amanda daniel andrew joshua matthew
    anthony charlie thomas robert nicole michelle samantha elizabeth alexander benjamin
    christopher jonathan trustno trustme whatever nothing freedom forever friends family summer
    winter spring autumn sommer january february march april june july august september october
    november december monday tuesday wednesday thursday friday saturday sunday google facebook
    samsung microsoft windows android iphone linkedin twitter mustang ferrari porsche mercedes
    corvette harley cookie cheese pepper ginger coffee pumpkin diamond silver golden purple
    orange yellow flower angel jordan hunter killer pussy fuckyou asshole biteme blink banana
    matrix phoenix eagles steelers cowboys lakers yankees rangers tigers zaq xsw abc qwe asd zxc
    podium labeling labeler labelling labeller annotate annotator research researcher
"""
COMMON = WORDS.split()
RUNS = (
    "01234567890123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "1q2w3e4r5t6y7u8i9o0p",
    "a1b2c3d4e5f6g7h8i9j0",
    "qazwsxedcrfvtgbyhnujmikolp",
)
MIN_RUN = 4  # characters in a row along one of RUNS that count as one guess
LEET = str.maketrans("013457@$!8", "oieastasib")
# Characters of other alphabets, and digits, that are taken for a Latin letter.
ALIKE = str.maketrans(
    {
        character: letter
        for letter, characters in {
            "a": "\u0430\u03b1\u0251",
            "b": "\u0432\u03b2",
            "c": "\u0441\u03f2",
            "d": "\u0501\u0111",
            "e": "\u0435\u03b5",
            "g": "\u0261",
            "h": "\u043d",
            "j": "\u0458",
            "k": "\u043a\u03ba",
            "l": "i1|\u0456\u03b9\u0131\u0142\u04cf",
            "m": "\u043c",
            "n": "\u03b7",
            "o": "0\u043e\u03bf\u00f8",
            "p": "\u0440\u03c1",
            "s": "\u0455",
            "t": "\u0442\u03c4",
            "u": "\u03c5",
            "v": "\u03bd",
            "w": "\u03c9",
            "x": "\u0445\u03c7",
            "y": "\u0443",
        }.items()
        for character in characters
    }
)


def check_password(password: str, handle: str) -> None:
    """Raises Problem 422 that says what is wrong with it."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise _refused(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    said = password.casefold()
    if len(set(said)) < MIN_DIFFERENT or _period(said) <= len(said) // 2:
        raise _refused("This password repeats itself; take three or four unrelated words.")
    if len(handle) > 2 and _is_made_of(said, [handle.casefold()]):
        raise _refused("This password is your handle; take three or four unrelated words.")
    if _is_made_of(said, COMMON) or _is_made_of(said.translate(LEET), COMMON):
        raise _refused("This password is a common one; take three or four unrelated words.")


def skeleton(handle: str) -> str:
    """What a handle looks like: equal for handles that people take for each other."""
    plain = unicodedata.normalize("NFKD", handle).casefold()
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    return bare.translate(ALIKE).replace("rn", "m").replace("vv", "w")


def _is_made_of(said: str, words: list[str]) -> bool:
    """Whether nothing worth guessing is left besides words of the list, keyboard runs, and digits
    or signs. Takes the longest first.
    """
    left, place = 0, 0
    by_length = sorted({w for w in words if w in said}, key=len, reverse=True)
    found = 0
    while place < len(said):
        word = next((w for w in by_length if said.startswith(w, place)), None)
        step = len(word) if word else _run_at(said, place)
        if step:
            place, found = place + step, found + 1
            continue
        left += said[place].isalpha()
        place += 1
    # three unrelated words are a passphrase, also when each of them is a common one
    return left < MIN_RUN and found <= 2


def _run_at(said: str, place: int) -> int:
    """Length of the keyboard or alphabet run that starts here, 0 when it is short."""
    for length in range(len(said) - place, MIN_RUN - 1, -1):
        part = said[place : place + length]
        if any(part in run or part[::-1] in run for run in RUNS):
            return length
    return 0


def _period(said: str) -> int:
    """After how many characters the text repeats itself (its length: never)."""
    return (said + said).index(said, 1)


def _refused(message: str) -> Problem:
    return Problem(422, "bad_password", message)
