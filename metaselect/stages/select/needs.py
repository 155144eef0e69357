"""What a round takes of memory and disk, by the sizes of what it holds."""

from typing import NamedTuple

import pyarrow.parquet as pq

from metaselect.data.readers.columnar import readable
from metaselect.features.near_duplicates import search_bytes
from metaselect.memory import Need, in_mib, predicted, require_memory
from metaselect.records import Json
from metaselect.selection.clustering.representatives import sketched_width
from metaselect.stages.select.cost import RoundToProbe, gradient_width, warmup_head
from metaselect.stages.select.similar import averaged_block

SAMPLE_BYTES = 250  # of memory for a sample: its id and label, the tables of the round
TABLE_BYTES = 20  # of disk for a sample in clusters.parquet, besides its id
COPIES = 5  # of the features of a checkpoint that a choice holds beside all features, at most, as measured
FEWER_COPIES = {"random": 0, "k-center": 2}
HINT = (
    "--method random and k-center hold least, and a warm-up with fewer --checkpoints leaves less to hold; so does "
    "ingest --limit."
)


class RoundNeeds(NamedTuple):
    """Bytes that a round takes.

    Attributes:
        samples: n.
        features: of all checkpoints, in memory and on disk.
        copies: of features that a choice holds besides.
        clustering: of K-means besides.
        neighbours: of the search for near duplicates, which ends before the choice.
        mapped: of the pool's array, which is read.
        texts: of all ids.
    """

    samples: int
    features: int
    copies: int
    clustering: int
    neighbours: int
    mapped: int
    texts: int

    @property
    def memory(self) -> Need:
        """Of the whole round."""
        then = max(self.neighbours, self.copies + self.clustering)
        return Need(self.samples * SAMPLE_BYTES + self.features + then, self.mapped)

    @property
    def disk(self) -> int:
        """Of its files."""
        return self.features + self.samples * TABLE_BYTES + self.texts

    def require(self, method: str) -> None:
        """Check that it fits --max-memory.

        Raises:
            ResourceError: it does not.
        """
        require_memory(self.memory, f"A round by {method} among {self.samples:,} samples", HINT)

    def described(self) -> dict[str, Json]:
        """What --dry-run says of them."""
        return {
            "samples": self.samples,
            "features_mib": in_mib(self.features),
            "clustering_mib": in_mib(self.clustering),
            "neighbours_mib": in_mib(self.neighbours),
            **predicted(self.memory, self.disk),
        }


def round_needs(round_: RoundToProbe) -> RoundNeeds:
    """What the round takes."""
    pool, options = round_.pool, round_.options
    method, n, checkpoints, budget = round_.method, len(pool), len(round_.epochs), round_.plan.budget
    features = clustering = 0
    external = options.features is not None
    if options.features is not None:
        with readable(options.features):
            metadata = pq.read_metadata(options.features)
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        features, checkpoints = sum(group.total_byte_size for group in groups), 1
    elif round_.epochs and "images" not in method.required_features:
        last = warmup_head(round_)
        # float32; projected gradients: a float32 norm and float16 directions
        width = 4 * (last.in_features + last.out_features)
        if "gradients" in method.required_features:
            width = 4 + 2 * int(getattr(method, "width", 0))
        features = n * checkpoints * width
        # K-means holds four (M, D) float32: old and new centroids, sums, a product
        clustering = 4 * 4 * budget * sketched_width(n, budget, gradient_width(round_))
    copies = FEWER_COPIES.get(options.method, COPIES) * features // max(checkpoints, 1)
    shape = (n, features // (4 * n)) if external else pool.inputs.shape
    neighbours = search_bytes(shape, round_.device, averaged_block(pool.inputs)) if shape[1] else 0
    texts = sum(map(len, pool.sample_ids))
    return RoundNeeds(n, features, copies, clustering, neighbours, pool.inputs.nbytes, texts)
