use super::*;

fn image(width: u32, height: u32) -> Detail {
    Detail::Image { width, height }
}

fn chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
    let named = [name, data].concat();
    let crc = crate_crc(&named);
    [
        &(data.len() as u32).to_be_bytes(),
        named.as_slice(),
        &crc.to_be_bytes(),
    ]
    .concat()
}

/// CRC-32 by its definition: the remainder of a division of polynomials.
fn crate_crc(bytes: &[u8]) -> u32 {
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    !bits.fold(u32::MAX, |crc, bit| {
        let low = crc & 1 ^ u32::from(bit);
        crc >> 1 ^ if low == 1 { 0xedb8_8320 } else { 0 }
    })
}

fn png_of(header: &[u8], chunks: &[Vec<u8>]) -> Vec<u8> {
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", header),
        chunks.concat(),
    ]
    .concat()
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    [
        &width.to_be_bytes(),
        &height.to_be_bytes(),
        b"\x08\x02\0\0\0".as_slice(),
    ]
    .concat()
}

pub(super) fn png(width: u32, height: u32) -> Vec<u8> {
    let rest = [
        chunk(b"tEXt", b"a\0b"),
        chunk(b"IDAT", &[7; 99]),
        chunk(b"IEND", b""),
    ];
    png_of(&png_header(width, height), &rest)
}

pub(super) fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
    // A fill byte before the marker, then the frame.
    bytes.extend(b"\xff\xff\xc2\0\x0b\x08");
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend(b"\x01\x01\x11\0");
    // Two scans, with a stuffed byte, a restart and a table between them.
    bytes.extend(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0data\xff\0data\xff\xd0data");
    bytes.extend(b"\xff\xc4\0\x04\xff\xd9\xff\xda\0\x08\x01\x01\0\0\x3f\0data\xff\xd9");
    bytes
}

pub(super) fn gif(width: u16, height: u16) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let mut bytes = [b"GIF89a", size.as_slice(), b"\x80\0\0rgbrgb"].concat();
    bytes.extend(b"!\xf9\x04\0\0\0\0\0,\0\0\0\0");
    bytes.extend(&size);
    bytes.extend(b"\0\x02\x03;;;\0;");
    bytes
}

fn webp(name: &[u8], data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_le_bytes();
    let body = [b"WEBP", name, &len, data].concat();
    [b"RIFF", (body.len() as u32).to_le_bytes().as_slice(), &body].concat()
}

pub(super) fn webp_lossless(width: u32, height: u32) -> Vec<u8> {
    let bits = (width - 1) | (height - 1) << 14;
    webp(
        b"VP8L",
        &[b"\x2f", bits.to_le_bytes().as_slice(), &[7; 20]].concat(),
    )
}

fn webp_lossy(width: u16, height: u16) -> Vec<u8> {
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    webp(
        b"VP8 ",
        &[b"\x10\0\0\x9d\x01\x2a", sides.as_slice(), &[7; 20]].concat(),
    )
}

fn webp_extended(width: u32, height: u32) -> Vec<u8> {
    let (width, height) = ((width - 1).to_le_bytes(), (height - 1).to_le_bytes());
    webp(
        b"VP8X",
        &[b"\x10\0\0\0", &width[..3], &height[..3]].concat(),
    )
}

#[test]
fn images_are_measured_and_may_have_bytes_after_their_end() {
    for (kind, bytes, detail) in [
        (Kind::Png, png(3, 2), image(3, 2)),
        (Kind::Jpeg, jpeg(300, 200), image(300, 200)),
        (Kind::Gif, gif(300, 200), image(300, 200)),
        (Kind::WebP, webp_lossless(300, 200), image(300, 200)),
        (Kind::WebP, webp_lossy(300 | 1 << 14, 200), image(300, 200)),
        (Kind::WebP, webp_extended(70_000, 200), image(70_000, 200)),
    ] {
        assert_ok(kind, &bytes, detail);
        let longer = [bytes.as_slice(), b"more \xff\xd8 bytes"].concat();
        assert_ok(kind, &longer, detail);
    }
}

#[test]
fn long_parts_are_skipped_whole() {
    // Of bytes that would be parts or ends themselves.
    let data = chunk(b"IEND", b"").repeat(70_000 / 12);
    let chunks = [
        chunk(b"tEXt", &data),
        chunk(b"IDAT", &data),
        chunk(b"IEND", b""),
    ];
    let bytes = png_of(&png_header(3, 2), &chunks);
    for size in [1, 5, 1 << 16, bytes.len()] {
        let (_, facts) = run(
            Kind::Png,
            &Limits::default(),
            &file_of(&bytes),
            &bytes,
            size,
        );
        assert_eq!(facts.unwrap().detail, image(3, 2));
    }
    let segment = [
        b"\xff\xd8\xff\xe1\x27\x12".as_slice(),
        &b"\xff\xd9".repeat(5000),
    ]
    .concat();
    let bytes = [&segment, &jpeg(3, 2)[2..]].concat();
    assert_ok(Kind::Jpeg, &bytes, image(3, 2));
}

#[test]
fn pixels_are_bounded_by_the_first_bytes() {
    let limits = Limits {
        pixels_max: 600,
        ..Limits::default()
    };
    for (kind, fits, large) in [
        (Kind::Png, png(30, 20), png(601, 1)),
        (Kind::Jpeg, jpeg(30, 20), jpeg(601, 1)),
        (Kind::Gif, gif(30, 20), gif(601, 1)),
        (Kind::WebP, webp_lossless(30, 20), webp_lossless(601, 1)),
        (Kind::WebP, webp_lossy(30, 20), webp_lossy(601, 1)),
        (Kind::WebP, webp_extended(30, 20), webp_extended(601, 1)),
    ] {
        check_with(kind, &limits, &fits).unwrap();
        let message = check_with(kind, &limits, &large).unwrap_err();
        let expected = "the image has 601 x 1 pixels, more than the 600 that are accepted";
        assert_eq!(message, expected);
        let mut check = Check::new(kind, limits.clone());
        let padded = [large, vec![0; 64]].concat();
        assert!(check.feed(&padded[..64]).is_err());
    }
    assert_fault(
        Kind::Png,
        &png(u32::MAX, u32::MAX),
        "4294967295 x 4294967295 pixels",
    );
    // A frame that is larger than its screen.
    let mut bytes = gif(3, 2);
    let frame = bytes.iter().position(|byte| *byte == b',').unwrap();
    bytes[frame + 5..frame + 9].fill(0xff);
    assert_fault(Kind::Gif, &bytes, "65535 x 65535 pixels");
}

#[test]
fn damaged_pngs_are_refused() {
    let header = png_header(3, 2);
    let (data, end) = (chunk(b"IDAT", &[7; 9]), chunk(b"IEND", b""));
    let rest = [data.clone(), end.clone()];
    let with = |at: usize, byte: u8| {
        let mut header = header.clone();
        header[at] = byte;
        png_of(&header, &rest)
    };
    for (bytes, expected) in [
        (
            with(8, 3),
            "at byte 24: there is no such bit depth and colour type",
        ),
        (
            with(9, 1),
            "at byte 24: there is no such bit depth and colour type",
        ),
        (
            with(10, 1),
            "no such compression, filter or interlace method",
        ),
        (
            with(12, 2),
            "no such compression, filter or interlace method",
        ),
        (with(3, 0), "at byte 16: the image has no pixels"),
        (
            png_of(&header[..12], &rest),
            "an IHDR chunk should stand here",
        ),
        (
            png_of(&header, std::slice::from_ref(&end)),
            "at byte 33: the image ends before its data",
        ),
        (
            png_of(&header, &[data.clone(), b"\0\0\0\0ID T".to_vec()]),
            "a chunk should stand here",
        ),
        (
            png_of(&header, &[b"\x80\0\0\0IDAT".to_vec()]),
            "a chunk should stand here",
        ),
        (
            png_of(&header, &[chunk(b"IHDR", &header)]),
            "there is a second IHDR chunk",
        ),
        (
            png_of(&header, std::slice::from_ref(&data)),
            "at byte 54: the file is cut short",
        ),
        (
            png_of(&header, &[data.clone(), chunk(b"IEND", b"a")]),
            "the IEND chunk has data",
        ),
    ] {
        assert_fault(Kind::Png, &bytes, expected);
    }
    let mut bytes = png(3, 2);
    bytes[19] = 4;
    assert_fault(
        Kind::Png,
        &bytes,
        "at byte 29: the checksum of the IHDR chunk is wrong",
    );
}

#[test]
fn damaged_jpegs_are_refused() {
    let start = b"\xff\xd8\xff\xe0\0\x02".as_slice();
    for (tail, expected) in [
        (b"data".as_slice(), "at byte 6: a marker should stand here"),
        (b"\xff\x00", "at byte 7: there is no such marker"),
        (b"\xff\xd8", "at byte 7: there is no such marker"),
        (b"\xff\xe1\0\x01", "a segment is shorter than its length"),
        (b"\xff\xda\0\x02", "the data comes before the header"),
        (b"\xff\xd9", "the image ends before its data"),
        (
            b"\xff\xc0\0\x07data!",
            "the header of the frame is too short",
        ),
        (
            b"\xff\xc0\0\x08\x08\0\0\0\x01\x01",
            "the image has no pixels",
        ),
        (
            b"\xff\xc0\0\x08\x08\0\x01\0\x01\0",
            "the image has no components",
        ),
        (
            b"\xff\xc0\0\x08\x08\0\x01\0\x01\x01\xff\xda\0\x02data",
            "the file is cut short",
        ),
    ] {
        assert_fault(Kind::Jpeg, &[start, tail].concat(), expected);
    }
    // Tables with codes among those of frames are no frames.
    let tables = b"\xff\xc4\0\x03a\xff\xcc\0\x03a\xff\xda\0\x02";
    assert_fault(
        Kind::Jpeg,
        &[start, tables].concat(),
        "the data comes before the header",
    );
}

#[test]
fn damaged_gifs_and_webps_are_refused() {
    let mut bytes = gif(3, 2);
    assert_eq!(bytes.pop(), Some(b';'));
    assert_ok(Kind::Gif, &bytes, image(3, 2));
    bytes.pop();
    assert_fault(Kind::Gif, &bytes, "the file is cut short");
    let mut bytes = gif(3, 2);
    bytes[6] = 0;
    assert_fault(Kind::Gif, &bytes, "the image has no pixels");
    assert_fault(
        Kind::Gif,
        b"GIF89a\x01\0\x01\0\0\0\0;",
        "the image has no frame",
    );
    assert_fault(
        Kind::Gif,
        b"GIF89a\x01\0\x01\0\0\0\0a",
        "a frame or extension should",
    );

    let mut bytes = webp_lossless(3, 2);
    bytes.pop();
    assert_fault(Kind::WebP, &bytes, "the file is cut short");
    assert_fault(
        Kind::WebP,
        &webp(b"ALPH", &[0; 20]),
        "the first chunk is no image",
    );
    assert_fault(
        Kind::WebP,
        &webp(b"VP8L", &[0; 20]),
        "a lossless image should stand here",
    );
    assert_fault(
        Kind::WebP,
        &webp(b"VP8 ", &[0; 20]),
        "a key frame should stand here",
    );
    assert_fault(Kind::WebP, &webp_lossy(0, 1), "the image has no pixels");
    assert_fault(
        Kind::WebP,
        &webp(b"VP8X", &[0; 9]),
        "the first chunk has a wrong length",
    );
    let mut bytes = webp_lossless(3, 2);
    bytes[17] = 1;
    assert_fault(Kind::WebP, &bytes, "the first chunk has a wrong length");
}
