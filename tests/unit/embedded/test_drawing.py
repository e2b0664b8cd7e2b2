"""Photos: the same for the same seed, telling where they should, blind where they should not."""

import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image

from raypipe.embedded.drawing import CATALOG, PRETRAINING, Style, encoded, photograph
from raypipe.embedded.look import Product
from raypipe.embedded.schema import VIEWS, attributes, verticals

# No grain, light, clutter or occlusion: two photos differ only where the products do.
STILL = Style(
    clutter=0.0,
    turn=0.0,
    drift=0.0,
    scale=(0.9, 0.9),
    light=0.0,
    occlusion=0.0,
    grain=0.0,
    blur=0.0,
)
ENTRIES = [entry for entries in attributes().values() for entry in entries]


def product(vertical, seed=0, **values):
    lottery = random.Random(seed)
    drawn = {entry.name: lottery.choice(entry.values) for entry in attributes()[vertical]}
    return Product(vertical, drawn | values, seed)


def changed_share(one, other):
    return float((np.abs(one.astype(int) - other.astype(int)).max(axis=-1) > 12).mean())


@pytest.mark.parametrize("vertical", verticals())
def test_a_photo_is_112_pixels_square_and_depends_on_its_arguments_alone(vertical):
    for view in VIEWS[vertical]:
        photo = photograph(product(vertical), view, CATALOG, seed=3)
        assert (photo.shape, photo.dtype) == ((112, 112, 3), np.uint8)
        assert photo.std() > 5
        np.testing.assert_array_equal(photo, photograph(product(vertical), view, CATALOG, seed=3))
        assert (photo != photograph(product(vertical), view, CATALOG, seed=4)).any()


@pytest.mark.parametrize("vertical", verticals())
def test_every_view_of_a_product_is_another_picture(vertical):
    photos = [photograph(product(vertical), view, STILL, seed=1) for view in VIEWS[vertical]]
    for index, photo in enumerate(photos):
        assert all(changed_share(photo, other) > 0.01 for other in photos[:index])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.vertical}-{entry.name}")
def test_a_view_that_shows_an_attribute_tells_its_values_apart(entry):
    for view in entry.shown_in:
        photos = [
            photograph(product(entry.vertical, **{entry.name: value}), view, STILL, seed=2)
            for value in entry.values
        ]
        for index, photo in enumerate(photos):
            for other in photos[:index]:
                assert changed_share(photo, other) > 0.001, view


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.vertical}-{entry.name}")
def test_a_closed_box_hides_everything(entry):
    first = product(entry.vertical, **{entry.name: entry.values[0]})
    last = product(entry.vertical, **{entry.name: entry.values[-1]})
    np.testing.assert_array_equal(
        photograph(first, "box", CATALOG, seed=5), photograph(last, "box", CATALOG, seed=5)
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.vertical}-{entry.name}")
def test_a_view_outside_the_visibility_table_says_nothing(entry):
    hiding = set(VIEWS[entry.vertical]) - set(entry.shown_in)
    if (entry.vertical, entry.name) == ("suitcase", "color"):
        hiding.discard("detail")  # the lock's plate is in any color but the suitcase's own
    for view in sorted(hiding):
        photos = [
            photograph(product(entry.vertical, **{entry.name: value}), view, STILL, seed=2)
            for value in entry.values
        ]
        leaks = [changed_share(photos[0], photo) for photo in photos[1:]]
        assert max(leaks) < 0.001, (view, leaks)


def test_the_catalog_is_photographed_less_kindly_than_the_pretraining_set():
    for field in dataclasses.fields(Style):
        kind, unkind = (getattr(style, field.name) for style in (PRETRAINING, CATALOG))
        if field.name == "scale":
            assert unkind[0] < kind[0]
        else:
            assert unkind > kind, field.name


def test_encoded_is_a_jpeg_close_to_the_pixels():
    photo = photograph(product("suitcase"), "front", PRETRAINING, seed=6)
    image = Image.open(io.BytesIO(encoded(photo)))
    assert (image.format, image.size) == ("JPEG", (112, 112))
    assert np.abs(np.asarray(image).astype(int) - photo).mean() < 6
