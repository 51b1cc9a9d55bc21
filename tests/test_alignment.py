"""The whole circle: heads shown by the generator come back, as photos, with the cameras that took them."""

import numpy as np
import pytest
import torch

from lib import cameras, faces, images
from lib.generators import load_generator
from lib.paths import WEIGHTS

SAMPLES = 16


@pytest.mark.skipif(
    not (WEIGHTS / "portraits64.safetensors").exists(),
    reason="lib/weights/portraits64.safetensors is not there",
)
def test_samples_saved_as_photos_come_back_with_their_cameras(tmp_path):
    generator = load_generator("portraits64")
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(SAMPLES, generator.z_dim, generator=rng)
    yaw = torch.linspace(-0.5, 0.5, SAMPLES)
    pitch = 0.15 * (2 * torch.rand(SAMPLES, generator=rng) - 1)
    camera = cameras.orbit(yaw, pitch)
    with torch.inference_mode():
        w = generator.map(z, camera, truncation_psi=0.7)
        shown = generator.synthesize(w, camera).image
    detector = faces.FaceDetector()
    errors = np.full((SAMPLES, 2), np.inf)  # a face that is not found counts as wrong
    for i, image in enumerate(shown.split(1)):
        path = images.save_image(tmp_path / f"{i}.png", image)
        try:
            found = faces.portrait_from_photo(path, generator, parse=False, detector=detector).camera
        except faces.FaceError:
            continue
        errors[i] = (abs(found.yaw.item() - yaw[i].item()), abs(found.pitch.item() - pitch[i].item()))
    assert np.median(errors, axis=0).max() <= 0.08, (
        f"median errors of yaw and pitch: {np.median(errors, axis=0)} rad"
    )
