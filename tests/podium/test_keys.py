"""Every key of the sections that several stages share does something: engine, LoRA, sampler."""

from pathlib import Path

import pytest
import torch

from podium.engine import EngineConfig, deepspeed_settings
from podium.lora import LoraConfig, with_lora
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.kinds import EmbeddedConfig, VllmConfig, make_sampler
from podium.sampling.protocol import SamplingParams

ENGINE = {
    "zero_stage": 2,
    "offload": True,
    "gradient_clipping": 0.5,
    "zero_optimization": {"overlap_comm": True},
}
VLLM = {"python": "/no/python", "dtype": "bf16", "cache_gb": 0.5, "folder": "elsewhere"}
LORA = {"r": 2, "alpha": 64, "dropout": 0.5, "target_modules": ["q_proj"]}


def test_every_key_is_listed():
    """A new key must show what it does. Mutation seen red: a field added to each."""
    assert ENGINE.keys() == EngineConfig.model_fields.keys()
    assert LORA.keys() == LoraConfig.model_fields.keys()
    # `kind` chooses the class: test_kinds.py; `max_tokens` below
    assert EmbeddedConfig.model_fields.keys() == {"kind", "max_tokens"}
    # shown below, and in tests/podium/sampling/vllm/test_protocol.py: `url`, `timeout`
    assert VllmConfig.model_fields.keys() == {"kind", "url", "timeout", *VLLM}


@pytest.mark.parametrize("key", ENGINE)
def test_every_key_of_the_engine_reaches_deepspeed(key):
    """Mutations seen red: `offload` not asked; `zero_optimization` left out."""
    base = {"zero_stage": 1} if key == "zero_optimization" else {}
    changed = deepspeed_settings(EngineConfig(**{**base, key: ENGINE[key]}), "fp32", 100)
    assert changed != deepspeed_settings(EngineConfig(**base), "fp32", 100)


@pytest.mark.parametrize("key", LORA)
def test_every_key_of_lora_changes_the_adapted_model(tiny_llama, key):
    """What the model says in training once its adapters are no zeros. Mutations seen red: each key
    not handed to peft.
    """

    def said(lora: LoraConfig) -> torch.Tensor:
        model = with_lora(tiny_llama, lora, "CAUSAL_LM", seed=0).train()
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.1)
            logits = model(torch.arange(6, 20)[None]).logits
        model.unload()
        return logits

    plain = said(LoraConfig())
    assert torch.equal(plain, said(LoraConfig()))
    assert not torch.equal(plain, said(LoraConfig(**{key: LORA[key]})))


@pytest.mark.parametrize("key", VLLM)
def test_every_key_of_vllm_reaches_the_server(tiny_llama, tmp_path, monkeypatch, key):
    """What is asked of it, and where it would be started. Mutations seen red: each key not read."""
    from podium.sampling.vllm import server as servers

    class Recorded(Exception):
        pass

    def find(named):
        raise Recorded(str(named))

    monkeypatch.chdir(tmp_path)
    asked = {}

    def note(self, path, body):
        asked.update(body)
        self._start()

    monkeypatch.setattr(servers.Server, "ask", note)
    monkeypatch.setattr(servers, "find_python", find)

    def said(**keys) -> dict:
        sampler = make_sampler(VllmConfig(**keys), tiny_llama, 1)
        with pytest.raises(Recorded) as caught:
            sampler.generate([[5]], SamplingParams(1))
        place = str(Path(asked.pop("folder")).parent.parent)
        return asked | {"folder": place, "python": str(caught.value)}

    name = {"cache_gb": "cache_bytes"}.get(key, key)
    plain, changed = said(), said(**{key: VLLM[key]})
    assert plain[name] != changed[name]


def test_prefill_passes_hold_no_more_tokens_than_the_key_says(tiny_llama, tokenizer):
    """The widest pass is as wide as it may be, and no wider."""
    widths: list[int] = []
    tiny_llama.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append((args or (kwargs["input_ids"],))[0].numel()),
        with_kwargs=True,
    )
    prompts = [[5, 6, 7, 8, 9, 10]] * 8
    for most in (48, 12):
        widths.clear()
        sampler = make_sampler(EmbeddedConfig(max_tokens=most), tiny_llama, tokenizer.pad_token_id)
        assert isinstance(sampler, EmbeddedSampler)
        sampler.generate(prompts, SamplingParams(1))
        assert max(widths) == most
