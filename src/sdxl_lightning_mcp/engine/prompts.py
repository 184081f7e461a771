"""From text to what the UNet reads: SDXL's two text encoders (Podell et al., arXiv 2307.01952)."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdxl_lightning_mcp.engine.memory import Residence, Tier
from sdxl_lightning_mcp.engine.tuning import Tuning

TOKENS = 77
CHUNK = TOKENS - 2
REMEMBERED = 64


@dataclass(frozen=True)
class Encoding:
    """One text, encoded.

    `tokens`: (1, 77 x chunks, width of both text encoders). `pooled`: (1, width of the second's
    projection), of the first chunk. `lost`: the words that did not fit.
    """

    tokens: Tensor
    pooled: Tensor
    lost: str


class PromptEncoder:
    """Encodes texts, in chunks of 75 tokens where they are long, and remembers the latest."""

    def __init__(
        self,
        tokenizers: Sequence[CLIPTokenizer],
        text_encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
        chunks: int,
        tuning: Tuning,
    ) -> None:
        self._pairs: list[tuple[Any, Any]] = list(zip(tokenizers, text_encoders, strict=True))
        self._chunks = chunks
        self._device = tuning.device
        self._remembered: OrderedDict[str, Encoding] = OrderedDict()
        # Where memory is short, the encoders are on the device only while they encode.
        self._parked = (
            [Residence(encoder, tuning.device) for encoder in text_encoders]
            if tuning.tier >= Tier.PARKED
            else []
        )
        for residence in self._parked:
            residence.leave()

    @torch.inference_mode()
    def encode(self, text: str) -> Encoding:
        """Encodes one text."""
        if text not in self._remembered:
            self._remembered[text] = self._encode(text)
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(text)
        return self._remembered[text]

    def lengthened(self, tokens: Tensor, length: int) -> Tensor:
        """Token states with empty chunks behind them, (1, length, width)."""
        while tokens.shape[1] < length:
            tokens = torch.cat([tokens, self.encode("").tokens], dim=1)
        return tokens

    def _encode(self, text: str) -> Encoding:
        for residence in self._parked:
            residence.bring(keep_host=True)
        try:
            states: list[Tensor] = []
            pooled = lost = None
            for tokenizer, encoder in self._pairs:
                rows, lost = _tokenize(tokenizer, text, self._chunks)
                ids = torch.tensor(rows, device=self._device)
                output = encoder(ids, output_hidden_states=True)
                # SDXL reads the last layer but one, and the second encoder's pooled projection.
                hidden: Tensor = output.hidden_states[-2]
                states.append(hidden.reshape(1, -1, hidden.shape[-1]))
                pooled = cast(Tensor, output[0])[:1]
            return Encoding(torch.cat(states, dim=-1), cast(Tensor, pooled), lost or "")
        finally:
            for residence in self._parked:
                residence.leave()


def _tokenize(tokenizer: Any, text: str, chunks: int) -> tuple[list[list[int]], str]:
    """Rows of 77 token ids, at most `chunks` of them, and the words beyond."""
    # A "<|endoftext|>" that a person types is text, not the end of their prompt.
    ids: list[int] = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
    rows: list[list[int]] = []
    while len(rows) < chunks and (ids or not rows):
        length = _chunk_length(tokenizer, ids, later=(chunks - len(rows) - 1) * CHUNK)
        row = [tokenizer.bos_token_id, *ids[:length], tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (TOKENS - len(row)))
        ids = ids[length:]
    return rows, tokenizer.decode(ids).strip() if ids else ""


def _chunk_length(tokenizer: Any, ids: list[int], later: int) -> int:
    """How many tokens go into a chunk, so that no word is split, if that can be had.

    `later` is how many the chunks after it can take; what they cannot take goes into this one.
    """
    if len(ids) <= CHUNK or later < len(ids) - CHUNK:
        return min(len(ids), CHUNK)
    tokens: list[str] = tokenizer.convert_ids_to_tokens(ids[:CHUNK])
    ends = [at + 1 for at, token in enumerate(tokens) if token.endswith("</w>")]
    return max(ends[-1] if ends else CHUNK, len(ids) - later)
