"""Instructions to token ids: the shipped byte-level BPE offline, or a pretrained tokenizer."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEMO_TOKENIZER = Path(__file__).parent / "tokenizer" / "tokenizer.json"
# Ids as in BART, so that a model's pad_token_id serves both tokenizers.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>")
PAD_ID = 1


class Tokenizer:
    """Turns an instruction into a fixed number of token ids, specials included.

    The released code pads and truncates to 50 and uses the ids only: no prompt template, no
    lower-casing, padding attended to.
    """

    def __init__(self, name: str, vocab_size: int, to_ids: Callable[[str, int], list[int]]) -> None:
        """Wrap `to_ids(text, length)`, which truncates to `length` and keeps the end token."""
        self.name = name
        self.vocab_size = vocab_size
        self._to_ids = to_ids
        self._known: dict[tuple[str, int], NDArray[np.int64]] = {}

    def encode(self, instruction: str, length: int) -> NDArray[np.int64]:
        """Return the ids [length] of an instruction, int64, padded with 1."""
        key = (instruction, length)
        if key not in self._known:
            ids = self._to_ids(instruction, length)
            row = np.full(length, PAD_ID, dtype=np.int64)
            row[: len(ids)] = ids
            row.setflags(write=False)
            self._known[key] = row
        return self._known[key]


@lru_cache(maxsize=8)
def build_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer called `name`: "demo" (shipped), a folder, or a name on the hub.

    Raises:
        ValueError: neither a folder with a tokenizer nor to be had from the hub.
    """
    return _from_file(DEMO_TOKENIZER) if name == "demo" else _from_pretrained(name)


def train_tokenizer(instructions: Iterable[str], out: Path, *, vocab_size: int = 512) -> Tokenizer:
    """Train a byte-level BPE on instructions and write it to the file `out`.

    Every text can be encoded (256 byte tokens); merges only make the trained ones short. The
    result depends on the set of instructions, not on their order or number.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sorted(set(instructions)), trainer)
    bos, _, eos = SPECIAL_TOKENS
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, 0), (eos, 2)]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(out))
    return _from_file(out)


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(path))

    def to_ids(text: str, length: int) -> list[int]:
        backend.enable_truncation(max_length=length)
        return list(backend.encode(text).ids)

    return Tokenizer(str(path), backend.get_vocab_size(), to_ids)


def _from_pretrained(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"tokenizer {name!r} cannot be loaded ({reason}); allowed: 'demo' (shipped), a folder "
            "with tokenizer files, or a hub name when online or in the hub's cache"
        ) from None

    def to_ids(text: str, length: int) -> list[int]:
        return list(backend(text, max_length=length, truncation=True)["input_ids"])

    if backend.pad_token_id != PAD_ID:
        raise ValueError(
            f"tokenizer {name!r} pads with id {backend.pad_token_id}; the text encoder expects "
            f"{PAD_ID} (BART); use a BART tokenizer, as facebook/bart-large"
        )
    return Tokenizer(name, len(backend), to_ids)
