"""Semantic search with the embedding tasks of a bundle.

    python -m exporter --model my-base --adapter embeddings/search --adapter embeddings/topics --output onnx-embeddings
    python examples/python/embeddings.py onnx-embeddings --task search --corpus texts.txt --query "a cheap phone"

Adapters in folders of sentence-transformers have their pooling with them; for others, `--pooling` sets it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import runtime


def search(
    predictor: runtime.Predictor, task: str, corpus: Sequence[str], query: str, most: int = 5
) -> list[tuple[float, str]]:
    """Return the texts that are nearest to a query, with their cosines, nearest first.

    Args:
        predictor: a bundle with an embedding task.
        task: its name.
        corpus: texts.
        query: a text.
        most: number of texts.
    """
    vectors = predictor.encode_texts([*corpus, query], [task], truncate=True)[task]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors[:-1] @ vectors[-1]
    return [(float(cosines[row]), corpus[row]) for row in np.argsort(-cosines, kind="stable")[:most]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the nearest texts of a file, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a bundle with embeddings")
    parser.add_argument("--task", required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="a file of texts, one a line")
    parser.add_argument("--query", required=True)
    options = parser.parse_args(arguments)
    corpus = [line for line in options.corpus.read_text(encoding="utf-8").splitlines() if line.strip()]
    for cosine, text in search(runtime.load(options.folder, provider="cpu"), options.task, corpus, options.query):
        print(f"{cosine:.3f}\t{text}")


if __name__ == "__main__":
    main()
