"""Medians, quartiles, and how a variant compares to the one that it is measured against."""

import statistics


def quantile(values, q):
    v = sorted(values)
    at = q * (len(v) - 1)
    low = int(at)
    high = min(low + 1, len(v) - 1)
    return v[low] + (v[high] - v[low]) * (at - low)


def short(x):
    """Five digits: a result file is for people, too."""
    return float("%.5g" % x)


def spread(values):
    return {"median": short(statistics.median(values)), "q1": short(quantile(values, 0.25)),
            "q3": short(quantile(values, 0.75)), "rounds": [short(x) for x in values]}


def typical(pin, values):
    """
    What a slice of one round takes. Unpinned, the scheduler has two placements,
    several times apart, and a pair falls from one into the other: a median then
    tells mostly how often. The lower quartile stays within the faster placement.
    """
    return quantile(values, 0.25) if pin == "unpinned" else statistics.median(values)


def ratio(pin, ours, raw):
    """
    Of one round. Pinned, slice i of both ran within some milliseconds of each
    other, so drift is in both and cancels; a disturbed slice is one outlier, and
    the median does not see it.
    """
    if pin == "unpinned":
        return typical(pin, ours) / typical(pin, raw)
    return statistics.median(a / b for a, b in zip(ours, raw))


def apart(a, b, least=0.02):
    """
    Did something change between two spreads? Only when (nearly) every round of one is above
    every round of the other, and the medians are further apart than `least`. Of two equal ones with
    five rounds that is said in 1.6 % of the cases; quartiles that do not touch would be 17 %.
    """
    pairs = [(x > y) - (x < y) for x in a["rounds"] for y in b["rounds"]]
    if abs(sum(pairs)) < 0.9 * len(pairs):
        return False
    low, high = sorted((abs(a["median"]), abs(b["median"])))
    return high - low > least * high
