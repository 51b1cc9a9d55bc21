"""Classes, how they unite to parts, masks from landmarks. What the network sees is tested on portraits."""

import numpy as np
import pytest
import torch

from lib import parsing


def one_hot(classes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, len(parsing.CLASSES)).permute(0, 3, 1, 2).float()


def test_classes_are_numbered_as_in_celebamask_hq():
    assert len(parsing.CLASSES) == 19
    numbers = {
        "background": 0,
        "skin": 1,
        "glasses": 6,
        "nose": 10,
        "lower_lip": 13,
        "neck": 14,
        "hair": 17,
        "hat": 18,
    }
    assert {name: parsing.CLASSES.index(name) for name in numbers} == numbers
    face = sorted(parsing.CLASSES.index(name) for name in parsing.PARTS["face"])
    assert face == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]


def test_parts_unite_their_classes():
    classes = torch.arange(19).repeat(19, 1)[None]
    masks = parsing.part_masks(one_hot(classes), 19)
    for part, names in parsing.PARTS.items():
        columns = masks[part][0, 0].all(dim=0).nonzero()[:, 0].tolist()
        assert columns == sorted(parsing.CLASSES.index(name) for name in names), part


def test_a_pixel_takes_the_class_that_is_likeliest_over_its_area():
    classes = torch.ones(1, 8, 8, dtype=torch.long)  # skin
    classes[:, :, :3], classes[:, 4:, 4:] = (
        17,
        10,
    )  # hair over the left three columns, nose at the lower right
    masks = parsing.part_masks(one_hot(classes), 2)
    assert masks["hair"][0, 0].tolist() == [[True, False], [True, False]]
    assert masks["nose"][0, 0].tolist() == [[False, False], [False, True]]
    assert masks["skin"][0, 0].tolist() == [[False, True], [False, False]]


def test_the_network_keeps_the_size_and_has_its_own_channels():
    torch.manual_seed(0)
    network = parsing.BiSeNet().eval()
    with torch.inference_mode():
        scores = network(torch.randn(1, 3, 64, 96))
    assert scores.shape == (1, 19, 64, 96) and scores.isfinite().all()


def test_probabilities_of_a_plain_picture():
    probabilities = parsing.class_probabilities(torch.zeros(1, 3, 64, 64))
    assert probabilities.shape == (1, 19, 512, 512)
    assert torch.allclose(probabilities.sum(1), torch.ones(1, 512, 512), atol=1e-4)
    assert probabilities[:, 0].mean() > 0.5, "grey is background"


@pytest.mark.parametrize("resolution", [16, 64])
def test_hulls_are_filled_to_half_a_pixel(resolution):
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = 0.5 + 0.3 * np.column_stack([np.cos(angles), np.sin(angles)])
    inner = 0.5 + 0.1 * np.column_stack([np.cos(angles), np.sin(angles)])
    mask = parsing._filled_hulls([np.concatenate([circle, inner])], resolution)
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    distance = np.hypot(steps[:, None], steps)
    clear = np.abs(distance - 0.3) > 0.75 / resolution
    assert np.array_equal(mask[clear], (distance < 0.3)[clear])


def test_contours_are_pairs_of_mesh_vertices():
    pairs = np.array(parsing.contours())
    assert pairs.shape[1] == 2 and pairs.min() >= 0 and pairs.max() < 468
