"""The built-in backbone: a small CLIP of open_clip's own classes, pre-trained on clean drawn textures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import CLIP
from safetensors import SafetensorError
from safetensors.torch import load_file

from clipfit_cli.errors import ModelError

TINY_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 8,
        "width": 160,
        "layers": 4,
        "head_width": 32,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
"""open_clip's model configuration; the tokenizer is open_clip's own, cut to this context length."""

EMBEDDING = "token_embedding.weight"
ROWS = "token_embedding.rows"
IDS = "token_embedding.ids"


def tiny_weights_path() -> Path:
    """Return the weight file that comes with the package."""
    return Path(__file__).parent.parent / "assets" / "clipfit-tiny.safetensors"


def build_tiny(weights: Path | None = None) -> CLIP:
    """Return the built-in CLIP on the CPU in float32, in evaluation mode, its weights loaded.

    Args:
        weights: Another weight file of the same form; None = the one that comes with the package.

    Raises:
        ModelError: The weight file is missing, damaged or of another form.
    """
    path = weights or tiny_weights_path()
    try:
        stored = load_file(path)
        state = {name: tensor.float() for name, tensor in stored.items() if name not in (ROWS, IDS)}
        state[EMBEDDING] = _full_embedding(stored[ROWS].float(), stored[IDS], TINY_CONFIG["text_cfg"]["vocab_size"])
        model = CLIP(**TINY_CONFIG)
        model.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"the weights of clipfit-tiny cannot be read from {path} ({error}); install the package anew"
        ) from error
    return model.eval()


def _full_embedding(rows: torch.Tensor, ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the token embedding (vocabulary, width) around its trained rows (tokens, width).

    Tokens that pre-training never met get fixed random vectors of the same spread, so that unlike class
    names stay unlike.
    """
    noise = np.random.RandomState(0).standard_normal((vocabulary, rows.shape[1]))
    full = torch.from_numpy(noise.astype(np.float32)) * rows.std()
    full[ids] = rows
    return full
