"""Property tests run without a time limit an example: two busy cores are no reason to fail."""

from hypothesis import settings

settings.register_profile("data", deadline=None, max_examples=60)
settings.load_profile("data")
