"""CrowS-Pairs and Winogender: which of sentences about different people is likelier."""

import numpy as np
import pytest

from evals.loglikelihood import encode_pair, loglikelihoods
from evals.sentence_pairs import measure_pairs, read_groups
from podium.errors import DataError
from podium.models import save_model

CROWS = ',sent_more,sent_less,stereo_antistereo,bias_type\n0,"Ana, the owl, ran.","Bram, the owl, ran.",stereo,gender\n1,An old man sat.,A man sat.,stereo,age\n'
WINO = "sentid\tsentence\nbaker.1.female.txt\tThe baker said she ran.\nbaker.1.male.txt\tThe baker said he ran.\nbaker.1.neutral.txt\tThe baker said they ran.\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "crows.csv").write_text(CROWS)
    (tmp_path / "wino.tsv").write_text(WINO)
    return tmp_path


def test_both_forms_are_read(files):
    """Mutations seen red: Winogender's sentences in the file's order, the female one first; a
    sentence's own quotation marks taken for the file's.
    """
    first, second = read_groups(files / "crows.csv")
    assert first.sentences == ("Ana, the owl, ran.", "Bram, the owl, ran.")
    assert (first.kind, second.kind) == ("gender", "age")
    (group,) = read_groups(files / "wino.tsv")
    assert [s.split()[3] for s in group.sentences] == ["he", "she", "they"]
    (files / "quoted.tsv").write_text(WINO.replace("The baker said", '"The baker" said'))
    assert read_groups(files / "quoted.tsv")[0].sentences[0] == '"The baker" said he ran.'
    (files / "other.csv").write_text("a,b\n1,2\n")
    for name in ("other.csv", "none.csv"):
        with pytest.raises(DataError, match="neither CrowS-Pairs"):
            read_groups(files / name)


def test_entropy_and_lean_are_of_the_models_own_likelihoods(files, tiny_llama, tokenizer, tmp_path):
    """By hand, with a prefix. Mutations seen red: the prefix left out; the lean turned."""
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    found = measure_pairs(str(tmp_path / "model"), files / "crows.csv", "Say it kindly:")
    bits, lean = [], []
    for group in read_groups(files / "crows.csv"):
        pairs = [encode_pair(tokenizer, "Say it kindly:", f" {s}") for s in group.sentences]
        totals = np.array([one.total for one in loglikelihoods(tiny_llama, pairs, 128)])
        share = np.exp(totals - totals.max()) / np.exp(totals - totals.max()).sum()
        bits.append(-(share * np.log2(share)).sum())
        lean.append(totals[0] > totals[1])
    assert found["entropy in bits"]["value"] == pytest.approx(np.mean(bits), rel=1e-3, abs=1e-12)
    assert found["first is likelier"]["value"] == pytest.approx(np.mean(lean))
    assert found["groups"] == 2 and found["without a lean"] == 1.0
    told = {name: found[name] for name in ("model", "file", "prefix")}
    assert told == {"model": str(tmp_path / "model"), "file": str(files / "crows.csv"),
                    "prefix": "Say it kindly:"}  # fmt: skip
    assert found["entropy in bits"]["low"] >= 0 and found["entropy in bits"]["high"] <= 1.0
    assert found["by kind"]["gender"]["groups"] == 1
    assert set(found["by kind"]) == {"gender", "age"}
    assert found["by kind"]["age"]["entropy in bits"]["value"] == pytest.approx(
        bits[1], rel=1e-3, abs=1e-12
    )


def test_three_sentences_have_more_bits_and_the_first_groups_are_enough(
    files, tiny_llama, tokenizer, tmp_path
):
    """Winogender's three persons: without a lean log2(3) bits. Without a prefix and with one group
    of two. Mutations seen red: two choices' bits; the limit ignored; a prefix by default.
    """
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    found = measure_pairs(str(tmp_path / "model"), files / "wino.tsv")
    assert found["without a lean"] == pytest.approx(np.log2(3)) and found["prefix"] == ""
    texts = read_groups(files / "wino.tsv")[0].sentences
    pairs = [encode_pair(tokenizer, "", f" {text}") for text in texts]
    totals = np.array([one.total for one in loglikelihoods(tiny_llama, pairs, 128)])
    assert found["first is likelier"]["value"] == float(totals[0] > totals[1])
    share = np.exp(totals - totals.max()) / np.exp(totals - totals.max()).sum()
    bits = -(share * np.log2(share)).sum()
    assert found["entropy in bits"]["value"] == pytest.approx(bits, rel=1e-3)
    one = measure_pairs(str(tmp_path / "model"), files / "crows.csv", limit=1)
    assert one["groups"] == 1 and list(one["by kind"]) == ["gender"]
