"""util/deploy/drawing.py: what a picture shows lies where it belongs."""

import numpy as np
import pytest
from PIL import Image

from util.deploy import drawing
from util.errors import UserError


def grey(side=64, width=None):
    return Image.new('RGB', (width or side, side), (128, 128, 128))


def test_a_token_that_prefers_no_class_does_not_count():
    tokens = drawing.Tokens.of(np.array([[0.5, 0.5], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]]))
    assert tokens.know.tolist() == [False, True, True, True]
    assert drawing.common_classes(tokens).tolist() == [1, 0]


def test_heat_reddens_the_largest_value_and_leaves_the_smallest_grey():
    image = np.asarray(drawing.heat(grey(), np.array([0.5, 1.0, 1.5, 2.5])))
    quarter = {i: image[i // 2 * 32 + 16, i % 2 * 32 + 16].astype(int) for i in range(4)}
    assert quarter[0].tolist() == [128, 128, 128]
    redness = [int(quarter[i][0] - quarter[i][1]) for i in range(4)]
    assert redness == sorted(redness) and redness[1] > 30 and redness[3] > 150
    assert (image[:32, :32] == 128).all()  # cells are not smoothed into each other


def test_heat_of_equal_values_is_no_heat():
    assert (np.asarray(drawing.heat(grey(), np.ones(4))) == 128).all()


@pytest.mark.parametrize(
    'size, region', [((90, 40), (25, 0, 65, 40)), ((40, 90), (0, 25, 40, 65)), ((60, 60), (5, 5, 55, 55))]
)
def test_a_square_of_a_photo_stands_in_its_faded_surroundings(size, region):
    """The square is dark and the rest is mid-grey: pasted at its corner it covers just the dark part."""
    photo = Image.new('RGB', size, (128, 128, 128))
    photo.paste((0, 0, 0), region)
    faded, square, corner = drawing.in_context(photo, region, side=200)
    assert np.asarray(square)[12:-12, 12:-12].max() == 0 and square.size == (200, 200)
    seen = np.asarray(faded.convert('L')).astype(int)
    pale_black, pale_grey = round(0.6 * 255), round(0.6 * 255 + 0.4 * 128)
    x, y = corner
    inside = seen[y + 12 : y + 188, x + 12 : x + 188]
    assert abs(inside - pale_black).max() <= 1
    outside = seen.copy()
    outside[max(0, y - 12) : y + 212, max(0, x - 12) : x + 212] = pale_grey
    assert abs(outside - pale_grey).max() <= 1 and (seen > pale_black + 10).any()


def test_a_panorama_is_shown_up_to_half_a_side_beyond_the_square():
    faded, square, corner = drawing.in_context(grey(40, width=4000), (1980, 0, 2020, 40), side=100)
    assert faded.size == (200, 100) and corner == (50, 0)


def test_pictures_of_different_sizes_get_cells_of_the_largest():
    picture = drawing.arrange([grey(10), grey(30), grey(20)], columns=2, gap=2)
    assert picture.size == (30 + 2 + 30, 30 + 2 + 30)
    assert picture.getpixel((32, 0)) == (128, 128, 128) and picture.getpixel((0, 32)) == (128, 128, 128)


@pytest.mark.parametrize('name, says', [('nowhere/x.png', 'No such file'), ('x.what', 'unknown file extension')])
def test_a_picture_that_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, name, says):
    with pytest.raises(UserError, match=f'--output .*{name}: .*{says}'):
        drawing.save(grey(), str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
