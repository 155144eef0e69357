"""What tests start from: of the numerical core, (from ``command_line``) finished runs, and a browser."""

import os

# Before NumPy and torch start their threads, so that bytes can be compared.
os.environ["OMP_NUM_THREADS"] = "1"

import chromium
import command_line
import host_device
import numpy as np
import pytest
import torch
from data_makers import Listener
from hypothesis import settings

from metaselect.data.stored.preprocess import Preprocess
from metaselect.run.layout import IMAGES
from metaselect.training.batches import Batches

torch.set_num_threads(1)
settings.register_profile("busy machine", deadline=None)  # an example may wait for other processes
settings.load_profile("busy machine")
if host_device.is_supported():
    host_device.register()  # here, since it must come before any test's backward pass

finished_once, finished = command_line.finished_once, command_line.finished
warm, bought = command_line.warm, command_line.bought
browser, context = chromium.browser, chromium.context


@pytest.fixture
def reporter() -> Listener:
    """A Reporter that keeps what it hears."""
    return Listener()


@pytest.fixture
def tiny_batches() -> Batches:
    """24 grey images of 8x8 in 3 classes, each class brightest in rows of its own; labels in turn."""
    labels = np.arange(24) % 3
    pixels = np.random.default_rng(11).integers(0, 60, (24, 1, 8, 8), dtype=np.uint8)
    for pixel, label in zip(pixels, labels, strict=True):
        pixel[0, 2 * label : 2 * label + 3] += 150
    preprocess = Preprocess(IMAGES, (8, 8), "L", (0.3,), (0.25,))
    return Batches(pixels, labels, preprocess, device=torch.device("cpu"), channels=1)
