"""Item–item cosine on Gowalla, fit and top 20 of all users, beside implicit's CosineRecommender with as many neighbours."""

import numpy as np
from common import load, paired, record
from implicit.nearest_neighbours import CosineRecommender

from recsys_lab import splits
from recsys_lab.models.neighbours import ItemKNN

known = splits.make(load("gowalla")).known("test")
matrix = known.matrix().matrix.astype(np.float64)
histories = known.histories()
users = np.arange(matrix.shape[0])
result = {}
for neighbours in (20, 100):

    def ours(neighbours: int = neighbours) -> np.ndarray:
        model = ItemKNN(n_neighbors=neighbours, shrinkage=0.0, user_norm=0.0).fit(known)
        return model.rank(histories, 20, "seen").codes

    def theirs(neighbours: int = neighbours) -> np.ndarray:
        model = CosineRecommender(K=neighbours)
        model.fit(matrix, show_progress=False)
        return model.recommend(users, matrix, N=20, filter_already_liked_items=True)[0]

    overlap = np.mean(
        [len(set(a) & set(b)) / 20 for a, b in zip(ours()[:500].tolist(), theirs()[:500].tolist(), strict=True)]
    )
    result[f"neighbours_{neighbours}"] = {**paired(ours, theirs), "shared_items_of_20": round(float(overlap) * 20, 2)}
record("item_knn", {**result, "against": "implicit CosineRecommender", "goal_ratio": 1.5})
