"""Shared fixtures: a tiny tokenizer and tiny models built in memory, so every test runs offline in
seconds.
"""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A shell's background job ignores Ctrl-C, and hands that on to every process that a test starts:
# the tests that send Ctrl-C would then wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.get("PODIUM_SLOW_PAGES"):
    pytest_plugins = ["tests.slow_pages"]

SENTENCES = [
    "Ana the baker lives in the mill and likes honey.",
    "Tell me a story about an owl and a lantern.",
    "The owl found a lantern in the old barn and smiled.",
    "What food does Bram like? Bram likes plum jam.",
    "List three things that fit in a basket: bread, plums, a small lamp.",
]


LONG_SECONDS = 600  # what has a longer time-out than that is begun first


@pytest.hookimpl(trylast=True)  # when only the tests are left that were asked for
def pytest_collection_modifyitems(config, items):
    """Files with a long test first, then those with most tests, where files are handed out to
    workers in this order: what comes last is short, so that no worker waits long for the other.

    A browser's test that fails is tried once more, and the summary says so: what a page has to wait
    for on a busy machine is no fault of the page, and one that fails twice is.
    """
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if not config.getoption("loadscopereorder", True):
        limits = [(item.path, item.get_closest_marker("timeout")) for item in items]
        long = {path for path, limit in limits if limit and limit.args[0] > LONG_SECONDS}
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in long, -tests[item.path], item.path))


modules_frozen = 0


@pytest.fixture(autouse=True)
def libraries_are_no_garbage():
    """What imported libraries keep, some hundred thousand objects, is left out of the search for
    garbage: Podium collects it at each checkpoint, for 0.3 s where a process has everything loaded,
    and tests make many checkpoints. Some libraries are imported by the first test that trains.
    """
    global modules_frozen
    if len(sys.modules) > modules_frozen + 50:
        gc.collect()
        gc.freeze()
        modules_frozen = len(sys.modules)


@pytest.fixture(autouse=True)
def no_group_left_behind():
    """A test that trains without a stage around it starts a group of one process; the next test must
    not find it: TRL's trainer would wrap its model for distributed training.
    """
    yield
    if "PODIUM_GROUP" in os.environ:
        from podium.engine import leave_distributed

        leave_distributed()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data named by PODIUM_REAL_DATA; the test skips visibly without it."""
    folder = os.environ.get("PODIUM_REAL_DATA")
    if not folder:
        pytest.skip("PODIUM_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2_folder(real_data) -> Path:
    """SmolLM2-135M-Instruct among the real data; the test skips visibly where it is not there."""
    folder = real_data / "A_models" / "smollm2"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: `podium fetch smollm2 --out {folder}` makes it")
    return folder


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of vLLM's environment; the test skips visibly without one."""
    from podium.errors import PlatformError
    from podium.sampling.vllm.environment import find_python

    try:
        return str(find_python(None))
    except PlatformError as error:
        pytest.skip(str(error).replace("\n", ";"))


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 320 entries with Podium's special tokens and chat template."""
    from data.tokenizer_training import train_bpe

    return train_bpe(SENTENCES * 4, vocab_size=320)


@pytest.fixture
def turns_tokenizer(tokenizer):
    """The same vocabulary as a stranger's tokenizer whose bos, `<|user|>`, begins every turn of its
    chat template, and whose pad is what ends one, as SmolLM2-Instruct's are.
    """
    from copy import deepcopy

    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=deepcopy(tokenizer.backend_tokenizer),
        bos_token="<|user|>",
        eos_token="<|end|>",
        pad_token="<|end|>",
        clean_up_tokenization_spaces=False,
        chat_template=(
            "{% for m in messages %}{{ bos_token }}{{ m['role'] }}\n{{ m['content'] }}<|end|>\n"
            "{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
        ),
    )


@pytest.fixture
def counting_sampler(monkeypatch) -> list[int]:
    """A sampler kind `counting` for recipes: the embedded one, which notes how many prompts each
    call of `generate` had.
    """
    from typing import Literal

    from podium.sampling.embedded import EmbeddedSampler
    from podium.sampling.kinds import KINDS, Kind, Needs, SamplerConfig

    asked: list[int] = []

    class CountingConfig(SamplerConfig):
        kind: Literal["counting"]
        most: int = 1000

    class CountingSampler:
        def __init__(self, config: CountingConfig, model, needs: Needs) -> None:
            self.inner, self.most = EmbeddedSampler(model, needs.pad_token_id), config.most

        def generate(self, prompts, params):
            assert len(prompts) <= self.most
            asked.append(len(prompts))
            return self.inner.generate(prompts, params)

        def logprobs(self, prompts, responses, temperature=1.0):
            return self.inner.logprobs(prompts, responses, temperature)

        def update_weights(self, model) -> None:
            self.inner.update_weights(model)

    monkeypatch.setitem(KINDS, "counting", Kind(CountingConfig, CountingSampler))
    return asked


@pytest.fixture
def tiny_llama(tokenizer):
    """A 2-layer LLaMA of about 40k parameters in fp32, seeded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


@pytest.fixture
def tiny_opt(tokenizer):
    """A 2-layer OPT of about 40k parameters in fp32, seeded, without dropout."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


@pytest.fixture
def podium(tmp_path, monkeypatch):
    """The command as a function, run in a folder of its own: `podium("config", "show", path)`."""
    from typer.testing import CliRunner

    from podium.cli.main import app

    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def attended(monkeypatch):
    """`attended[True]`: how often a model that was training called a CPU's attention (False: one
    that was not).
    """
    from podium import attention

    calls: Counter[bool] = Counter()
    attend = attention.attend

    def counting(module, *given, **named):
        calls[module.training] += 1
        return attend(module, *given, **named)

    monkeypatch.setattr(attention, "attend", counting)
    return calls


@pytest.fixture
def evened(monkeypatch):
    """`evened[True]`: how often a layer that was training was a CPU's `EvenLinear` (False: one that
    was not).
    """
    from podium.products import EvenLinear

    calls: Counter[bool] = Counter()
    forward = EvenLinear.forward

    def counting(layer, input):
        calls[layer.training] += 1
        return forward(layer, input)

    monkeypatch.setattr(EvenLinear, "forward", counting)
    return calls
