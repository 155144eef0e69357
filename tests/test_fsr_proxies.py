"""Where FSR's proxies stay out: by hand, and with a wrong majority that bought labels contradict."""

import numpy as np
import pytest
import torch
from data_makers import Listener, plan, predictions_of, start_of

from metaselect.data.stored.preprocess import Preprocess
from metaselect.metrics.ranking import clean_label_auc
from metaselect.models.build import build_model
from metaselect.reweighting.fsr.method import FSR
from metaselect.reweighting.fsr.proxies import supported_classes
from metaselect.run.layout import FEATURES
from metaselect.training.batches import Batches
from metaselect.training.loop import start_training, train


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ([[0.9, 0.1, 0], [0, 2, 0], [0.4, 0, 0.6]], [True, True, True]),
        ([[0.4, 0.6, 0], [0, 0.4, 0.6], [0.6, 0, 0.4]], [False] * 3),
        # Class 2 was not bought, and most of what it looks like is given label 0: nothing shows that but row 0.
        ([[0.4, 0.6, 0], [0, 1, 0], [0, 0, 0]], [False, True, True]),
        # Many visits of one class do not outvote few of another.
        ([[60, 40, 0], [0, 0.5, 0.5], [0, 9, 1]], [True, False, False]),
    ],
)
def test_classes_whose_given_labels_bought_ones_support_by_hand(
    sums: list[list[float]], expected: list[bool]
) -> None:
    assert supported_classes(torch.tensor(sums)).tolist() == expected


@pytest.mark.parametrize("proxies", ["agreeing", "all"])
def test_a_wrong_majority_loses_weight_where_bought_labels_contradict_it(proxies: str) -> None:
    """60 % of each class have the label of the next one; all bought labels are right."""
    draw = np.random.default_rng(6)
    true = np.arange(300) % 3
    inputs = (np.eye(3)[true] * 3 + draw.normal(size=(300, 3))).astype(np.float32)
    bought, wrong = torch.arange(6), draw.random(300) < 0.6
    wrong[:6] = False
    labels = np.where(wrong, (true + 1) % 3, true)
    preprocess = Preprocess(FEATURES, (), "", (0.0,) * 3, (1.0,) * 3)
    batches = Batches(inputs, labels, preprocess, device=torch.device("cpu"), channels=3)
    resolved = plan(epochs=25, batch_size=32, lr=0.1, momentum=0.0, augment="none")
    run = FSR(proxies=proxies).begin(start_of(torch.from_numpy(labels), epochs=25, lr=0.1, bought=bought))
    trainee = start_training(build_model("mlp", (3,), 3, seed=0), resolved, run)
    state = {"ids": torch.arange(6, 300), "bought": bought}
    list(train(trainee, batches, resolved, **state, meta_batch_size=64, report=Listener(), what="fsr"))
    auc = clean_label_auc(run.pool_weights(predictions_of(torch.zeros(300))).numpy()[6:], ~wrong[6:])
    assert auc is not None
    assert auc > 0.85 if proxies == "agreeing" else auc < 0.5
