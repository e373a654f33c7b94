"""Which texts share a batch: the split of sorted lengths that costs least, padding and calls together."""

from collections.abc import Sequence


def split(lengths: Sequence[int], rows: int, tokens: int, call: int) -> list[list[int]]:
    """Indices of `lengths`, one list a batch, shorter texts first.

    A batch costs its rows times its longest text, plus `call`: what one more call costs, in tokens. Of all splits of the sorted
    lengths into batches of at most `rows` rows and `tokens` tokens, padding included, this is one of the cheapest; a text that
    is longer than `tokens` has a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    best, first = [0], [0]  # cost of the shortest `end` texts, and where their last batch begins
    for end in range(1, len(order) + 1):
        width = lengths[order[end - 1]]
        room = max(1, min(rows, tokens // max(1, width)))
        cost, start = min((best[start] + call + (end - start) * width, start) for start in range(max(0, end - room), end))
        best.append(cost)
        first.append(start)
    batches = []
    end = len(order)
    while end:
        batches.append(order[first[end] : end])
        end = first[end]
    return batches[::-1]
