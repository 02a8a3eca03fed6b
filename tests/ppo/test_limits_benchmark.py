"""What `benchmarks.ppo_limits` counts, by hand."""

from benchmarks.ppo_limits import Need, Size, decoding, needs, reading

SIZE = Size(body=10, head=4, layers=2, width=3)


def test_decoding_by_hand():
    """A prompt of 2 and a response of 3: 4 tokens are read, the two after the prompt look back at 3
    and 4. Mutations seen red: the last token read too; the prompt's own keys counted.
    """
    need = decoding(SIZE, [2], [3], width=4)
    assert need.products == 2 * 10 * 4 + 2 * 4 * 3
    assert need.attention == 4 * 3 * 2 * (1 + 2 + 3 + 4)
    assert need.memory == (10 + 4) * 4 * 3 + 2 * 3 * 2 * 4 * (3 + 4)


def test_a_training_pass_does_three_times_a_reading_ones_arithmetic():
    """Mutations seen red: twice; the head on every token."""
    read, train = (reading(SIZE, [2], [3], head=True, training=t) for t in (False, True))
    assert read.products == 2 * 10 * 5 + 2 * 4 * 3
    assert read.attention == 4 * 3 * 2 * 15
    assert (train.products, train.attention) == (3 * read.products, 3 * read.attention)


def test_the_least_time_is_that_of_arithmetic_or_of_memory():
    """Mutation seen red: their sum."""
    need = Need(products=6, attention=2, memory=10)
    assert need.seconds(2, 1, 10) == 5
    assert need.seconds(2, 1, 1) == 10


def test_every_kind_of_the_profile_has_its_need():
    names = {"generate", "old_logprobs", "reference", "reward", "value"}
    assert needs(SIZE, [2], [3], 4).keys() == names | {
        "update_policy",
        "update_value",
        "optimizer",
    }
