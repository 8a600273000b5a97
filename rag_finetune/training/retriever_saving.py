"""Trained encoders as ordinary folders, which `index` and `assemble` take."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import staged_folder
from rag_finetune.rag.adapters import merged


def save_encoders(encoders: Mapping[str, TextEncoder], folder: Path, scale: float) -> None:
    """Write each encoder into a folder of its name; pooling, normalisation and prefix are kept.

    Args:
        encoders: by name; adapters are merged into a copy of the weights.
        folder: where the folders go.
        scale: of the question encoder's vectors.

    Raises:
        OSError: a folder cannot be written, or the disk is full.
    """
    for name, encoder in encoders.items():
        network: Any = merged(encoder.model)
        network.config._name_or_path = ""  # a path of this machine, else saved with the model
        before = network.config.scale if isinstance(network, PooledEncoder) else 1.0
        if isinstance(network, PooledEncoder):
            network.config.scale = scale if name == "question_encoder" else 1.0
        try:
            with staged_folder(folder / name) as staged:
                replace(encoder, model=network).save(staged)
        finally:
            if isinstance(network, PooledEncoder):
                network.config.scale = before


def without_scale(network: Any) -> float:
    """The scale of a question encoder, which training leaves out: the temperature does its work."""
    if not isinstance(network, PooledEncoder):
        return 1.0
    scale, network.config.scale = network.config.scale, 1.0
    return float(scale)
