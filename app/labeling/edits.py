"""How far a labeler's text is from the model's: Levenshtein's distance over characters."""

from os.path import commonprefix


def edit_distance(first: str, second: str) -> int:
    """The fewest insertions, deletions and replacements of single characters between two texts.

    Myers' bit-parallel algorithm in Hyyrö's form (2003): a column of the dynamic programme is two
    integers, so two texts of 20,000 characters take half a second and not minutes; what both
    begin and end with is left out first.
    """
    if len(first) < len(second):
        first, second = second, first
    same = len(commonprefix([first, second]))  # noqa: RUF071 - characters are meant
    first, second = first[same:], second[same:]
    same = len(commonprefix([first[::-1], second[::-1]]))  # noqa: RUF071
    first, second = first[: len(first) - same], second[: len(second) - same]
    if not second:
        return len(first)
    places: dict[str, int] = {}
    for row, character in enumerate(second):
        places[character] = places.get(character, 0) | 1 << row
    all_rows, last_row = (1 << len(second)) - 1, 1 << len(second) - 1
    up, down, distance = all_rows, 0, len(second)  # vertical steps of +1 and of -1
    for character in first:
        equal = places.get(character, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        right_up = down | (all_rows & ~(horizontal | up))
        right_down = up & horizontal
        distance += bool(right_up & last_row) - bool(right_down & last_row)
        right_up = (right_up << 1 | 1) & all_rows
        right_down = (right_down << 1) & all_rows
        up = right_down | (all_rows & ~(vertical | right_up))
        down = right_up & vertical
    return distance
