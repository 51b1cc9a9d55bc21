"""3D GAN inversion, re-implemented: one library under all the notebooks."""
