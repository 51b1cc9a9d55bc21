"""Encoders: a photo becomes a head in one pass, `load_encoder(name, generator).encode(image, camera) -> Inversion`.

Networks are modules beside this file; GOAE's equations are in `goae`. `python -m lib.encoder_training` trains them.
"""

from lib.encoders.encoder import ENCODERS, Encoder, invert_encoder, load_encoder, networks_of, released_goae

__all__ = ["ENCODERS", "Encoder", "invert_encoder", "load_encoder", "networks_of", "released_goae"]
