"""The pretraining mix of PPO-ptx: windows of documents whose gradient joins PPO's in one step
(InstructGPT, C.4).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.packing import apart, encode_documents, pack
from data.records import Document
from podium.errors import DataError


def ptx_windows(tokenizer, documents: Sequence[Document], context: int) -> Tensor:
    """Documents packed as in pretraining into full windows of token ids, (N, context) int32.

    Raises:
        DataError: all documents together do not fill one window.
    """
    ids = encode_documents(tokenizer, [document.text for document in documents])
    windows = torch.from_numpy(pack(ids, context, tokenizer.bos_token_id))
    if len(windows) == 0:
        raise DataError(
            "documents (train)",
            problem=f"{len(documents)} documents do not fill one window of {context} tokens",
            fix="give more documents or set a smaller ppo.ptx_context",
        )
    return windows


def next_tokens(ids: Tensor, bos_id: int | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Attention mask, positions and target mask of full windows (D, T): every token but the first
    is a target.

    Documents are kept apart as in pretraining; `bos_id` None: a window is one document.
    """
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, 0] = False
    if bos_id is None:
        return torch.ones_like(target_mask), None, target_mask
    inputs = apart(ids, bos_id)
    return inputs["attention_mask"], inputs["position_ids"], target_mask
