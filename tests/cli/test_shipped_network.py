"""`fer-ignite predict` before any training."""

import numpy as np
from PIL import Image

from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.weights import shipped_checkpoint


def test_predict_without_a_checkpoint_asks_the_shipped_network(cli):
    pixels, _ = draw_faces(3, seed=0)
    folder = cli("info").folder / "faces"
    folder.mkdir()
    for number, face in enumerate(np.asarray(pixels)):
        Image.fromarray(face.squeeze()).save(folder / f"{number}.png")
    alone, named = cli("predict", folder), cli("predict", shipped_checkpoint(), folder)
    assert alone.code == 0 and alone.out == named.out
    assert alone.out.count(" %") == 9
    assert (
        "robust.pt, which ships with the package" in alone.err
        and len(alone.err.splitlines()) == 1
        and named.err == ""
    )


def test_a_checkpoint_alone_is_nothing_to_look_at(cli):
    ended = cli("predict", shipped_checkpoint())
    assert ended.code == 2 and "alone is nothing to look at" in ended.err
