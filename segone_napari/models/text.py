"""The text tower: phrases to embeddings, by a small CLIP text encoder in transformers' format.

It is saved and loaded as transformers does, so any CLIP text tower from the hub fits in its place.
Weights are read from safetensors only. transformers is imported when a tower is made or loaded,
since its import takes seconds. Knows nothing of images or of the vocabulary.

Dimension key: N phrases, L tokens, D features of an embedding.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from segone_napari.models.torchvision_ops import mend_torchvision
from segone_napari.models.weights import disk_errors
from segone_napari.runtime import BadCheckpoint

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a new text tower. Checked when it is made."""

    projection_dim: int = 32
    """D: features of an embedding, the same as the features of a pixel."""
    hidden: int = 128
    """Width of the transformer."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads a layer."""
    context: int = 16
    """Most tokens of a phrase, the two that mark its start and end included."""
    vocab_size: int = 1200
    """Most tokens of the tokenizer; at least 514, so that every byte has one."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden is {self.hidden}; it must be a multiple of heads, {self.heads}"
            )
        if self.context < 3:
            raise ValueError(f"context is {self.context}; it must be at least 3")
        if min(self.projection_dim, self.hidden, self.layers, self.heads) < 1:
            raise ValueError("projection_dim, hidden, layers and heads must be at least 1")


class TextTower(nn.Module):
    """A CLIP text encoder with its tokenizer.

    Both are transformers' own objects; `create` and `load` make them.
    """

    def __init__(self, model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}

    @classmethod
    def create(cls, config: TextConfig, phrases: Iterable[str], seed: int = 0) -> TextTower:
        """Make an untrained tower whose tokenizer is trained on `phrases`.

        The same config, phrases and seed give the same tower; the global random state is kept.
        """
        transformers = _transformers()
        tokenizer = build_tokenizer(phrases, config.vocab_size, config.context)
        clip = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=4 * config.hidden,
            projection_dim=config.projection_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # transformers draws its weights from the global generator
            model = transformers.CLIPTextModelWithProjection(clip)
        return cls(model, tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> TextTower:
        """Read a tower from a folder in transformers' format, in float32 and evaluation mode.

        Raises
        ------
        BadCheckpoint
            If the folder is missing, damaged, or holds its weights in another file than
            ``model.safetensors`` (pickled weights are never opened).
        """
        transformers = _transformers()
        folder = Path(folder)
        # transformers would take a folder that does not exist for a name on the hub.
        for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise BadCheckpoint(
                    f"the text tower {folder} has no {name}; copy the checkpoint anew, and save "
                    "weights as safetensors"
                )
        try:
            with _quietly():
                loaded: Any = transformers.CLIPTextModelWithProjection.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
                tokenizer = transformers.CLIPTokenizer.from_pretrained(
                    folder, local_files_only=True
                )
        except Exception as error:  # a damaged file fails in as many ways as there are parsers
            raise BadCheckpoint(
                f"the text tower {folder} is damaged ({error}); copy the checkpoint anew"
            ) from error
        model, report = loaded
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise BadCheckpoint(f"the text tower {folder} lacks weights ({missing}, ...)")
        return cls(model, tokenizer).eval()

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the tower in transformers' format, as safetensors.

        With `half`, weights are stored as float16; `load` computes with them in float32.
        """
        dtype = torch.float16 if half else torch.float32
        weights = {k: v.detach().to("cpu", dtype) for k, v in self.model.state_dict().items()}
        with _quietly(), disk_errors():
            self.model.save_pretrained(folder, state_dict=weights)
            self.tokenizer.save_pretrained(folder)

    @property
    def features(self) -> int:
        """D: features of an embedding."""
        return int(self.model.text_projection.out_features)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed phrases.

        Returns
        -------
        (N, D) float32 on the device of the tower, not normalised. Words beyond the context are
        cut off.
        """
        if not texts:
            return self.model.text_projection.weight.new_zeros(0, self.features)
        tokens = self.tokenize(texts).to(self.model.device)  # (N, L)
        # No attention mask: attention is causal and the embedding is read at the first end token,
        # so that the padding behind it is never seen.
        embedding: Tensor = self.model(input_ids=tokens).text_embeds  # (N, D)
        return embedding.float()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn phrases into tokens (N, L) int64, filled up with end tokens behind each end."""
        rows = [self._tokens_of(text) for text in texts]
        length = max(map(len, rows))
        end = self.tokenizer.eos_token_id
        return torch.tensor([row + [end] * (length - len(row)) for row in rows])

    def _tokens_of(self, text: str) -> list[int]:
        """Tokens of one phrase. Kept, since training asks for the same phrases at every step."""
        if text not in self._tokens:
            if len(self._tokens) >= 20_000:
                self._tokens.clear()
            context = self.model.config.max_position_embeddings
            row = self.tokenizer(text, truncation=True, max_length=context)["input_ids"]
            self._tokens[text] = list(row)
        return self._tokens[text]


def build_tokenizer(
    phrases: Iterable[str], vocab_size: int = 1200, context: int = 16
) -> CLIPTokenizer:
    """Train a CLIP tokenizer (byte-level byte-pair encoding, lower case) on phrases.

    The same phrases give the same tokenizer. Every byte has a token, so that any text can be
    encoded.

    Raises
    ------
    ValueError
        If `vocab_size` has no room for two tokens a byte and the two special ones.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    transformers = _transformers()
    # 1. The order of CLIP's own vocabulary: bytes, bytes that end a word, merges, special tokens.
    letters = sorted(ByteLevel.alphabet())
    base = [*letters, *(letter + WORD_END for letter in letters)]
    room = vocab_size - len(base) - 2
    if room < 0:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {len(base) + 2}")
    # 2. Words, cut as CLIP cuts them.
    pattern = transformers.CLIPTokenizer().backend_tokenizer
    words = Counter(
        word
        for phrase in phrases
        for word, _ in pattern.pre_tokenizer.pre_tokenize_str(
            pattern.normalizer.normalize_str(phrase)
        )
    )
    # 3. Merges, and what they make; two merges may make the same token.
    merges = _learn_merges(words, room)
    tokens = [*dict.fromkeys([*base, *(a + b for a, b in merges)]), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merged = cast(Any, merges)
    made = transformers.CLIPTokenizer(vocab=vocabulary, merges=merged, model_max_length=context)
    return cast("CLIPTokenizer", made)


def _learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learn which pairs of tokens to merge: the most frequent pair again and again.

    Ties go to the pair that comes first in the alphabet. (The trainer of the tokenizers library
    breaks ties by the order of a hash table, another one in every run.) Stops early when no pair
    occurs twice.
    """
    splits = {word: [*word[:-1], word[-1] + WORD_END] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, split in splits.items():
            for pair in pairwise(split):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        splits = {word: _merge(split, best) for word, split in splits.items()}
    return merges


def _merge(split: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every neighbouring `pair` in the tokens of a word."""
    if pair[0] not in split:
        return split
    merged: list[str] = []
    for token in split:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


_ONE_AT_A_TIME = threading.Lock()


def _transformers() -> Any:
    """Import transformers with what is used of it; by one thread at a time, else that can fail."""
    with _ONE_AT_A_TIME:
        mend_torchvision()
        import transformers

        for name in ("CLIPTextConfig", "CLIPTextModelWithProjection", "CLIPTokenizer"):
            getattr(transformers, name)  # loaded when it is looked at
    return transformers


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from drawing progress bars for a file that is read in milliseconds."""
    from transformers.utils import logging

    with _ONE_AT_A_TIME:
        was_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if was_on:
                logging.enable_progress_bar()
