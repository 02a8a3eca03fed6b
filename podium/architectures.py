"""Which models Podium can train, as far as their config says it; what only the computation shows is
measured when one is loaded (`podium.output_head`, `podium.sampling.uncached`, `data.packing`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from podium.errors import ParentError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Families that transformers counts among the causal language models, and why they are refused.
REFUSED = {
    "blt": "reads bytes in patches that a second model cuts, not tokens",
    "dots3_note": "reads images and sound as well",
    "doge": "keeps a window of positions by their scores, in which padding takes places",
    "fuyu": "reads images",
    "gemma4_assistant": "drafts for another model, whose keys and values it reads",
    "gemma4_unified_assistant": "drafts for another model, whose keys and values it reads",
    "moshi": "reads and speaks sound",
    "musicgen": "makes sound",
    "musicgen_melody": "makes sound",
    "phi4_multimodal": "reads images and sound",
    "reformer": "trains on rows of one fixed length alone",
    "xmod": "must be told the language of every row",
}
ANOTHER = "start from a decoder-only language model of text"


def check_language_model(config: PretrainedConfig, path: str | Path) -> None:
    """Whether a folder's model is a language model that Podium can sample from and train.

    Raises:
        ParentError: it is none, for a reason that its config says.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    family = config.model_type
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    why, fix = None, ANOTHER
    if getattr(config, "quantization_config", None) is not None:
        why, fix = "its weights are quantised", "give the folder of the weights as they were before"
    elif getattr(config, "is_encoder_decoder", False):
        why = "it is an encoder with a decoder, and only a decoder alone can go on from a prompt"
    elif name is None:
        why = "transformers has no causal language model of this family"
    elif name.endswith("ForConditionalGeneration"):
        why, fix = "it reads images or sound as well", f"save its text model alone, or {ANOTHER}"
    elif family in REFUSED:
        why = f"it {REFUSED[family]}"
    if why is not None:
        raise ParentError(f"{path} holds a model of the family {family}: {why}", fix)
