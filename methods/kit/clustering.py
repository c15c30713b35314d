"""K-means, once: centres of what a network sees, and the real points that stand for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mabench.errors import MabenchError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def k_means(points: Floats, count: int, seed: int, tries: int = 1) -> tuple[Floats, Rows]:
    """Return the centres [count,D] of points [N,D] and every point's cluster [N]: the best of `tries` starts (scikit-learn's Lloyd).

    Raises MabenchError for more centres than points.
    """
    from sklearn.cluster import KMeans

    if count > len(points):
        raise MabenchError(f"a class of {len(points)} images has no {count} clusters. Use fewer images per class.")
    model = KMeans(count, n_init=tries, random_state=seed).fit(points)
    return model.cluster_centers_, model.labels_


def nearest(points: Floats, centres: Floats, *, distinct: bool = True) -> Rows:
    """Return the row of the point nearest to each centre, [count]; with `distinct` a point stands for the first of its centres only."""
    free, rows = np.ones(len(points), dtype=bool), []
    for centre in centres:
        distance = ((points - centre) ** 2).sum(1)
        rows.append(int(np.where(free, distance, np.inf).argmin()))
        if distinct:
            free[rows[-1]] = False
    return np.array(rows)
