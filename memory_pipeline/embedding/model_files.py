"""The model's files in their folder: complete, and with the pinned checksum. Loads no model."""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from memory_pipeline.errors import ModelMissing

WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
WEIGHTS_BYTES = 437_971_872

REQUIRED = (
    "modules.json",
    "config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    WEIGHTS,
)
OPTIONAL = ("config_sentence_transformers.json", "special_tokens_map.json", "vocab.txt")
MARKER = "verified.json"


def model_ready(directory: Path) -> bool:
    """Whether the model is complete and its checksum was verified before. Reads no weights."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        return not _absent(directory) and marker == _verified(directory)
    except (OSError, ValueError):
        return False


def verify_model(directory: Path) -> None:
    """Check that the model is complete and right; mark it, so that the next check is cheap.

    Raises:
        ModelMissing: it is not; the message names the command to run.

    """
    if not model_ready(directory) and (fault := model_fault(directory)):
        raise ModelMissing(
            f"the embedding model is not in {directory}: {fault}; run: memory-pipeline model pull"
        )


def model_fault(directory: Path) -> str | None:
    """Return the reason why the files are not the model; where there is none, mark them."""
    if absent := _absent(directory):
        return f"there is no {absent[0]}"
    with (directory / WEIGHTS).open("rb") as weights:
        found = checksum(weights)
    if found != WEIGHTS_SHA256:
        return f"{WEIGHTS} has sha256 {found}, not {WEIGHTS_SHA256}"
    with suppress(OSError):  # a read-only folder is checked again each time
        (directory / MARKER).write_text(json.dumps(_verified(directory)), encoding="utf-8")
    return None


def checksum(content: BinaryIO) -> str:
    """Return the SHA-256 of a file, from where it is read now to its end."""
    digest = sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _absent(directory: Path) -> list[str]:
    return [name for name in REQUIRED if not (directory / name).is_file()]


def _verified(directory: Path) -> dict[str, object]:
    """Return the content of the marker; weights that replace the verified ones do not match it."""
    weights = (directory / WEIGHTS).stat()
    # Whole seconds: container images store no finer ones.
    return {"sha256": WEIGHTS_SHA256, "bytes": weights.st_size, "changed": int(weights.st_mtime)}
