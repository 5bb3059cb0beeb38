import numpy as np
import pytest
import torch
from PIL import Image

from asintrovae.data.image_files import decode, read, read_all, read_row, write_row


def shades(path):
    """Distinct colours of a decoded image."""
    return {tuple(pixel) for pixel in decode(path, 4).flatten(1).T.tolist()}


def palette():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


IMAGES = {
    "grey.png": (lambda: Image.new("L", (8, 8), 77), (77, 77, 77)),
    "bilevel.png": (lambda: Image.new("1", (8, 8), 1), (255, 255, 255)),
    "palette.png": (palette, (10, 20, 30)),
    "grey16.png": (lambda: Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), (128, 128, 128)),
    "grey16.tif": (lambda: Image.fromarray(np.full((8, 8), 300, np.uint16)), (1, 1, 1)),
    "grey16.pgm": (lambda: Image.fromarray(np.full((8, 8), 65535, np.uint16)), (255, 255, 255)),
    "alpha.png": (lambda: Image.new("RGBA", (8, 8), (0, 0, 255, 0)), (255, 255, 255)),
    "half.png": (lambda: Image.new("LA", (8, 8), (0, 51)), (204, 204, 204)),
    "cmyk.jpg": (lambda: Image.new("CMYK", (8, 8), (255, 0, 0, 0)), (0, 255, 255)),
    "colour.bmp": (lambda: Image.new("RGB", (8, 8), (1, 2, 3)), (1, 2, 3)),
    "colour.webp": (lambda: Image.new("RGB", (8, 8), (255, 255, 255)), (255, 255, 255)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_mode_becomes_rgb(name, tmp_path):
    make, wanted = IMAGES[name]
    make().save(tmp_path / name)
    (found,) = shades(tmp_path / name)
    assert np.abs(np.subtract(found, wanted)).max() <= (2 if name == "cmyk.jpg" else 0)


def test_transparent_colour_of_a_palette_is_white(tmp_path):
    palette().save(tmp_path / "a.gif", transparency=1)
    assert shades(tmp_path / "a.gif") == {(255, 255, 255)}


@pytest.mark.parametrize("size", [(178, 218), (218, 178)])
def test_the_centred_square_is_kept_whole(size, tmp_path):
    """CelebA: rows 20 to 197 of 218."""
    image = Image.new("RGB", size, "red")
    image.paste("black", (0, 20, 178, 198) if size[0] == 178 else (20, 0, 198, 178))
    image.putpixel((89 if size[0] == 178 else 20, 20 if size[0] == 178 else 89), (0, 255, 0))
    image.save(tmp_path / "a.png")
    square = decode(tmp_path / "a.png", 178)
    assert square[0].max() == 0
    assert square[1].max() == 255
    assert decode(tmp_path / "a.png", 64).shape == (3, 64, 64)


@pytest.mark.parametrize("size", [(178, 218), (218, 178)])
def test_a_squeezed_image_is_whole_and_flatter(size, tmp_path):
    """The frame, of which the centred square lacks two sides, is there; its square is flat."""
    width, height = size
    image = Image.new("RGB", size, "white")
    image.paste("black", (10, 10, width - 10, height - 10))
    image.paste("red", (width // 2 - 40, height // 2 - 40, width // 2 + 40, height // 2 + 40))
    image.save(tmp_path / "a.png")
    square = decode(tmp_path / "a.png", 128, "squeeze").float()
    edges = [square[:, 0], square[:, -1], square[:, :, 0], square[:, :, -1]]
    assert min(edge.min() for edge in edges) > 200
    red = (square[0] > 128) & (square[1] < 128)
    rows, columns = red.any(1).sum().item(), red.any(0).sum().item()
    assert (rows, columns) == pytest.approx((80 * 128 / height, 80 * 128 / width), abs=1)
    cropped = decode(tmp_path / "a.png", 128).float()
    assert min(cropped[:, 0].min(), cropped[:, :, 0].min()) < 50


def test_shrinking_averages(tmp_path):
    """Every second column white: an image that is not antialiased would be black or white."""
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).save(tmp_path / "a.png")
    small = decode(tmp_path / "a.png", 8)[:, 1:-1, 1:-1].float()
    assert (small - 127.5).abs().max() < 8


def test_rotation_in_exif_is_applied(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    assert decode(tmp_path / "a.png", 8)[0, 0, 0] == 0


def spoil(folder):
    """One unreadable image of every kind: file -> a word of the reason."""
    whole = folder / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        whole
    )
    Image.open(whole).save(folder / "crc.png")
    content, png = whole.read_bytes(), bytearray((folder / "crc.png").read_bytes())
    png[len(png) // 2] ^= 255
    (folder / "crc.png").write_bytes(png)
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("<html>404</html>")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(folder / "long.tif")
    reasons = {
        "cut.jpg": "truncated",
        "empty.jpg": "no image",
        "text.png": "no image",
        "crc.png": "",
        "float.tif": "floats",
    }
    return {**reasons, "long.tif": "70000", "missing.jpg": "No such file"}


def test_unreadable_images_of_every_kind_are_named_with_the_reason(tmp_path):
    reasons = spoil(tmp_path)
    for name, reason in reasons.items():
        line = read(tmp_path / name, 8)
        assert isinstance(line, str), name
        assert line.startswith(f"{tmp_path / name} (")
        assert reason in line
        assert "\n" not in line
    images, problems = read_all(
        [tmp_path / name for name in ["whole.jpg", *reasons, "whole.jpg"]], 8, "images"
    )
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[0], images[1])
    assert len(problems) == len(reasons)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_images_are_read_as_written(tmp_path, channels):
    images = (
        torch.randint(0, 256, (5, channels, 6, 6), generator=torch.Generator().manual_seed(1)) / 255
    )
    write_row(tmp_path / "new" / "row.png", images)
    assert torch.equal(read_row(tmp_path / "new" / "row.png"), images)
    wide = 1.6 * images - 0.3
    write_row(tmp_path / "row.png", wide)
    assert torch.equal(read_row(tmp_path / "row.png"), (wide.clamp(0, 1) * 255).round() / 255)
