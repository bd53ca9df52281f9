"""Each kind of image is read as a viewer shows it, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mosaicmem import FormatError
from mosaicmem._images import image_size, read_color, read_depth

SIZE = (8, 6)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (*SIZE[::-1], 3)).astype(np.uint8)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def write_png(path, values, color_type, extra=b""):
    """A PNG with 16 bits per channel, which Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra and chunk(b"tRNS", extra), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


class TestColor:
    def test_sixteen_bits(self, tmp_path, rng):
        grey = rng.integers(0, 65536, SIZE[::-1]).astype(np.uint16)
        grey[0, :4] = [0, 257, 32768, 65535]
        seen = read_color(save(tmp_path / "grey.png", grey), SIZE)
        np.testing.assert_array_equal(seen, np.rint(grey / 257).astype(np.uint8)[..., None].repeat(3, axis=2))
        rgb = rng.integers(0, 65536, (*SIZE[::-1], 3)).astype(np.uint16)
        seen = read_color(write_png(tmp_path / "rgb.png", rgb, 2), SIZE)
        np.testing.assert_allclose(seen, rgb / 257, atol=1)
        opaque = np.concatenate([rgb, np.full((*SIZE[::-1], 1), 65535)], axis=2)
        seen = read_color(write_png(tmp_path / "rgba.png", opaque, 6), SIZE)
        np.testing.assert_allclose(seen, rgb / 257, atol=1)

    def test_grey_palette_and_one_bit(self, tmp_path, pixels):
        grey = pixels[..., 0]
        np.testing.assert_array_equal(read_color(save(tmp_path / "l.png", grey), SIZE), np.stack([grey] * 3, axis=2))
        np.testing.assert_array_equal(
            read_color(save(tmp_path / "one.png", grey > 99), SIZE)[..., 1], 255 * (grey > 99)
        )
        palette = Image.fromarray(pixels).quantize(256)
        np.testing.assert_array_equal(
            read_color(save(tmp_path / "p.png", palette), SIZE), np.array(palette.convert("RGB"))
        )

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
    def test_transparent_pixels_are_refused_and_opaque_ones_read(self, tmp_path, pixels, mode):
        path = tmp_path / "a.png"
        image = Image.fromarray(pixels if mode in ("RGBA", "RGB") else pixels[..., 0])
        if mode in ("RGBA", "LA"):
            image.putalpha(255)
            np.testing.assert_array_equal(read_color(save(path, image), SIZE)[..., 0], pixels[..., 0])
            image.putpixel((1, 2), (*image.getpixel((1, 2))[:-1], 254))
            save(path, image)
        elif mode == "P":
            indices = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(SIZE[::-1])).convert("P")
            save(path, indices, transparency=5)
        elif mode == "I;16":
            write_png(path, np.arange(48).reshape(SIZE[::-1]), 0, struct.pack(">H", 9))
        else:
            save(path, image, transparency=tuple(pixels[1, 2].tolist()) if mode == "RGB" else int(pixels[1, 2, 0]))
        with pytest.raises(
            FormatError, match=r"a\.png: expected opaque pixels, got \d+ of 48 .* put a background behind"
        ):
            read_color(path, SIZE)

    def test_cmyk_is_refused(self, tmp_path, pixels):
        path = save(tmp_path / "a.jpg", Image.fromarray(pixels).convert("CMYK"))
        with pytest.raises(FormatError, match=r"a\.jpg: expected a grey or RGB image, got CMYK; convert it to RGB"):
            read_color(path, SIZE)

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_images_that_viewers_turn_are_refused(self, tmp_path, pixels, suffix):
        exif = Image.Exif()
        path = tmp_path / f"a.{suffix}"
        for orientation in range(2, 9):
            exif[0x0112] = orientation
            save(path, pixels, exif=exif)
            with pytest.raises(
                FormatError, match=f"expected an image that is stored upright, got EXIF orientation {orientation}"
            ):
                read_color(path, SIZE)
        exif[0x0112] = 1
        save(path, pixels, exif=exif)
        assert read_color(path, SIZE).shape == pixels.shape

    def test_damaged_tags_are_never_another_error(self, tmp_path, pixels, rng):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 1, "a scene"
        content = bytearray(save(tmp_path / "a.jpg", pixels, exif=exif).read_bytes())
        start = content.index(b"Exif")
        for _ in range(100):
            broken = bytearray(content)
            for at in rng.integers(start, start + 60, 3):
                broken[at] = rng.integers(256)
            (tmp_path / "a.jpg").write_bytes(broken)
            try:
                assert read_color(tmp_path / "a.jpg", SIZE).shape == pixels.shape
            except FormatError as error:
                assert error.path == tmp_path / "a.jpg"  # noqa: PT017 - some, not all, are errors

    def test_resized_by_areas(self, tmp_path, pixels):
        path = save(tmp_path / "a.png", pixels)
        expected = pixels.reshape(3, 2, 4, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(read_color(path, SIZE, resized=(4, 3)), expected, atol=1)


class TestDepth:
    @pytest.mark.parametrize(
        ("mode", "hint"),
        [
            ("RGB", "keep one channel, if all hold the same depth in 16 bits"),
            ("RGBA", "keep one channel"),
            ("LA", "keep one channel"),
            ("L", "a picture of depth, for people to look at"),
            ("P", "a picture of depth"),
            ("1", "a picture of depth"),
        ],
    )
    def test_what_is_no_16_bit_grey_is_refused(self, tmp_path, pixels, mode, hint):
        path = save(tmp_path / "d.png", Image.fromarray(pixels).convert(mode))
        with pytest.raises(
            FormatError, match=rf"d\.png: expected a 16-bit grey image, got (uint8|bool) of shape \(6, 8.*{hint}"
        ):
            read_depth(path, SIZE, 1000)

    def test_three_channels_of_16_bits(self, tmp_path):
        path = write_png(tmp_path / "d.png", np.full((*SIZE[::-1], 3), 1500), 2)
        with pytest.raises(FormatError, match="keep one channel"):
            read_depth(path, SIZE, 1000)

    def test_all_of_16_bits(self, tmp_path):
        units = np.linspace(0, 65535, 48).astype(np.uint16).reshape(SIZE[::-1])
        depth = read_depth(save(tmp_path / "d.png", units), SIZE, 1000, invalid=65535)
        np.testing.assert_allclose(depth, np.where(units == 65535, 0, units / 1000), rtol=1e-6)


def other_format(name):
    buffer = io.BytesIO()
    if name == "TIFF":
        Image.fromarray(np.full(SIZE[::-1], 1.5, np.float32)).save(buffer, format="TIFF")
    else:
        Image.fromarray(np.full(SIZE[::-1], 9, np.uint8)).save(buffer, format=name)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (other_format("TIFF"), "a TIFF image"),
        (other_format("PPM"), "a PGM or PPM image"),
        (other_format("BMP"), "a BMP image"),
        (other_format("GIF"), "a GIF image"),
        (other_format("WEBP"), "a WebP image"),
        (b"v/1\x01\2\0\0\0", "an OpenEXR image"),
        (b"\x93NUMPY\1\0", r"a NumPy array \(\.npy\)"),
        (b"\0\0\0\x18ftypheic", "a HEIF or AVIF image"),
    ],
    ids=lambda value: value.split()[-1] if isinstance(value, str) else "",
)
def test_other_formats_under_the_name_of_png(tmp_path, content, kind):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (image_size, lambda p: read_color(p, SIZE), lambda p: read_depth(p, SIZE, 1000)):
        with pytest.raises(
            FormatError, match=rf"a\.png: not a readable image: expected PNG or JPEG, got {kind}; convert it"
        ):
            read(path)
