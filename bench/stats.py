"""Medians, quartiles, and how a variant compares to raw."""

import statistics


def quantile(values, q):
    v = sorted(values)
    at = q * (len(v) - 1)
    low = int(at)
    high = min(low + 1, len(v) - 1)
    return v[low] + (v[high] - v[low]) * (at - low)


def spread(values):
    return {"median": statistics.median(values), "q1": quantile(values, 0.25),
            "q3": quantile(values, 0.75), "rounds": [round(x, 6) for x in values]}


def typical(pin, values):
    """
    What a slice of one round takes. Unpinned, the scheduler has two placements,
    several times apart, and a pair falls from one into the other: a median then
    tells mostly how often. The lower quartile stays within the faster placement.
    """
    return statistics.median(values) if pin == "pinned" else quantile(values, 0.25)


def ratio(pin, ours, raw):
    """
    Of one round. Pinned, slice i of both ran within some milliseconds of each
    other, so drift is in both and cancels; a disturbed slice is one outlier, and
    the median does not see it.
    """
    if pin == "pinned":
        return statistics.median(a / b for a, b in zip(ours, raw))
    return typical(pin, ours) / typical(pin, raw)
