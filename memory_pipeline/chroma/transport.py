"""chromadb's own HTTP client, except that it packs vectors faster.

The library packs each of 768 numbers separately: 40 of the 60 µs that a document costs this side of
a bulk load. The bytes are the same. The client takes the class by name (chromadb's setting
``chroma_api_impl``), and chromadb is pinned exactly.
"""

from typing import Any

import numpy as np
import pybase64
from chromadb.api.fastapi import FastAPI
from overrides import override


class Transport(FastAPI):
    """Sends the same requests as the library, in less time."""

    @override  # chromadb requires this one
    def _submit_batch(self, batch: Any, url: str) -> None:
        ids, vectors, metadatas, documents, uris = batch
        if vectors is None or not self.supports_base64_encoding():
            super()._submit_batch(batch, url)
            return
        self._make_request(
            "post",
            url,
            json={
                "ids": ids,
                "embeddings": [packed(vector) for vector in vectors],
                # Single values and lists of one type, by contract: there is nothing to convert.
                "metadatas": metadatas,
                "documents": documents,
                "uris": uris,
            },
        )


def packed(vector: Any) -> str:
    """Return a vector as the library packs it: base64 of little-endian float32."""
    array = np.ascontiguousarray(vector, dtype="<f4")
    return str(pybase64.b64encode_as_string(array.tobytes()))
