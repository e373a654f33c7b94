"""Length bucketing: the division of texts into batches with the lowest cost of padding and calls."""

from collections.abc import Sequence


def split(lengths: Sequence[int], rows: int, tokens: int, call: int, alike: bool = False) -> list[list[int]]:
    """Divide texts into batches by dynamic programming over the sorted lengths.

    The cost of a batch is the number of its rows times its longest text, plus `call`. The result has the lowest cost of all
    divisions of the sorted lengths within the limits.

    Args:
        lengths: number of tokens of each text.
        rows: maximum number of rows of a batch.
        tokens: maximum number of tokens of a batch, including padding; a longer text gets a separate batch.
        call: cost of one call, in tokens.
        alike: put only texts of one length into a batch.

    Returns:
        Indices into `lengths`, one list per batch, shorter texts first.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    best, first = [0], [0]  # cost of the shortest `end` texts, and start of their last batch
    for end in range(1, len(order) + 1):
        width = lengths[order[end - 1]]
        room = max(1, min(rows, tokens // max(1, width)))
        starts = range(max(0, end - room), end)
        fitting = (start for start in starts if not alike or lengths[order[start]] == width)
        cost, start = min((best[start] + call + (end - start) * width, start) for start in fitting)
        best.append(cost)
        first.append(start)
    batches = []
    end = len(order)
    while end:
        batches.append(order[first[end] : end])
        end = first[end]
    return batches[::-1]
